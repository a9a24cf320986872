"""Prunes a checkpoint from folder to folder, a block at a time."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoConfig, GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME

from hf_td.anatomy import Anatomy, Block, Holder, read_anatomy
from hf_td.compaction import needed_units
from hf_td.compaction.alignment import renumber_heads
from hf_td.compaction.kept import choose_units
from hf_td.compaction.surgery import cut_parameters, new_counts, smaller_shapes
from hf_td.compaction.trial import swap
from hf_td.config import TargetedDropoutConfig, check_known
from hf_td.files import MODULES, check_free, folder_bytes, read_json_object, whole_folder
from hf_td.hub.card.removal import Removal
from hf_td.hub.card.text import no_smaller
from hf_td.hub.card.writing import METRICS, PICTURE, README, ExportFacts, write_card
from hf_td.hub.export import Export, choose_form, stock_hint
from hf_td.hub.forms import AUTO, FORMS, load_form
from hf_td.hub.forms.form import Plan, Source
from hf_td.hub.from_disk.groups import Group, groups_of, unit_sites
from hf_td.hub.from_disk.hollow import filled, hollow, hollow_model
from hf_td.hub.from_disk.shards import Shards, ShardWriter
from hf_td.hub.sentences import copy_modules, loader_in
from hf_td.hub.stock_config import build_empty
from hf_td.hub.untrusted import JSON_LIMIT
from hf_td.modules.compact_file import FILE as LOADER
from hf_td.modules.compact_layout import LAYOUT_KEY, record_layout
from hf_td.modules.limits import check_counts
from hf_td.pruning import (
    Budget,
    PruningReport,
    as_budget,
    check_reachable,
    check_sparsity,
    count_sparsity,
    select_sites,
)
from hf_td.pruning.budgets import Currency
from hf_td.pruning.report import live_units
from hf_td.ranking.activations import FILE as ACTIVATIONS
from hf_td.ranking.learned import FILE as SCORES
from hf_td.ranking.sites import Site, WeightSite, scores_to_prune
from hf_td.ranking.source import forget_source

CHOICES = [AUTO, *(name for name, row in FORMS.items() if row.automatic)]
# What is not carried along: weights in any format, and what is written anew or true no longer.
# Optimisers, random numbers and training arguments are among the suffixes of weights.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx", ".data")
_RESULTS = [f"{part}_results.json" for part in ("all", "train", "eval", "test", "predict")]
_TRAINED = (METRICS, PICTURE, "trainer_state.json", "whole.json", *_RESULTS)  # of a checkpoint too
_OWN = ("config.json", README, LOADER, ACTIVATIONS, SCORES, *_TRAINED)


@dataclass(frozen=True)
class PrunedFolder:
    """A finished pruning of a folder.

    Attributes:
        export: the folder that was written.
        report: what is removed, by layer and in total.
    """

    export: Export
    report: PruningReport


@torch.no_grad()
def prune_folder(
    source: str | Path,
    folder: str | Path,
    sparsity: float,
    config: TargetedDropoutConfig | None = None,
    *,
    budget: Literal["uniform", "global"] | Budget = "uniform",
    of: Currency | None = None,
    form: str = AUTO,
    keep_heads_stock: bool = False,
    multiple_of: int = 8,
    shard_bytes: int = 10**9,
    overwrite: bool = False,
    example_inputs: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> PrunedFolder:
    """Prune a checkpoint, and write it in the form that loads most widely, without loading it.

    Does what `prune_model` and `export_model` do. The model is never in memory as a whole: a block
    is read, pruned and written at a time. So the memory is that of a few blocks and of a shard, and
    no forward can be run. The result is not loaded and compared; the shapes of all tensors are
    checked against those that loading expects.

    Args:
        source: a folder with config.json and safetensors files. Its other files, such as those of
            the tokenizer and the modules of a SentenceTransformer, are copied.
        folder: the folder to write, as a whole or not at all.
        sparsity: the fraction to remove, in [0, 1].
        config: which layers, and at which level, as for `prune_model`.
        budget: as for `prune_model`; `global` for units alone, since single weights would all have
            to be ranked together.
        of: as for `prune_model`.
        form: `stock`, `compact`, or `auto`, as for `export_model`.
        keep_heads_stock: as for `export_model`.
        multiple_of: as for `export_model`.
        shard_bytes: size at which a file of weights is written and the next one begins.
        overwrite: replace a folder that holds something.
        example_inputs: as for `prune_model`.
        **overrides: settings that replace those of `config`, such as `level="unit"`.

    Raises:
        FileExistsError: the folder holds something and `overwrite` is False.
        FileNotFoundError: the source has no safetensors files, or no config.json.
        ValueError: as `prune_model` and `export_model`; or the model is quantised or compact, has
            no class in Transformers or other names on disk, or cannot be pruned without a forward.
    """
    check_known(overrides, prune_folder)
    source = Path(source)
    check_sparsity(sparsity)
    check_free(Path(folder).absolute(), overwrite=overwrite)
    if form not in CHOICES:
        raise ValueError(
            f"form {form!r} needs the whole model in memory. Give one of {CHOICES}, or use "
            "export_model"
        )
    budget = as_budget(budget, of)
    shards = Shards(source)
    stock = _stock_config(source)
    model: Any = hollow_model(stock, stock.dtype or shards.dtype)
    if (source / GENERATION_CONFIG_NAME).is_file():
        model.generation_config = GenerationConfig.from_pretrained(source)
    anatomy = read_anatomy(model, example_inputs)
    _check_names(model, anatomy, shards, source)
    anatomy, sites = select_sites(model, config, anatomy=anatomy, **overrides)
    _check_sites(sites, budget)
    check_reachable(sites, sparsity)
    groups = groups_of(model, anatomy, sites)
    chosen, alive = _choose_units(model, shards, groups, sparsity, budget)
    needed = needed_units(model, anatomy, multiple_of, example_inputs, alive=alive)
    plan_source = Source(
        model=model, anatomy=anatomy, needed=needed, keep_heads_stock=keep_heads_stock
    )
    name, plan, reason = choose_form(form, plan_source)
    hint = stock_hint(plan_source) if form == AUTO and name != "stock" else None
    counts = {h: n for h, n in plan.units.items() if h.obstacle is None and n < h.units}
    kept = choose_units(model, anatomy, counts, alive=alive)
    with whole_folder(folder, overwrite=overwrite) as draft:
        writer = ShardWriter(draft, shard_bytes)
        work = _Work(model, anatomy, shards, writer, sparsity, budget, chosen, kept)
        report = work.write_all(groups)
        writer.finish()
        _shrink(model, kept, plan)
        _check_shapes(model, writer, plan)
        _write_config(model, draft)
        _carry_along(source, draft)
        removal = _removal(model, report)
        facts = ExportFacts(
            name=Path(folder).absolute().name,
            form=load_form(name),
            removal=removal,
            sentence_class=loader_in(draft) if (draft / MODULES).is_file() else None,
        )
        write_card(draft, model, None, facts)
    export = Export(
        folder=Path(folder),
        form=name,
        reason=reason,
        parameters=model.num_parameters(),
        bytes=folder_bytes(folder),
        ways=(),
        notes=tuple(filter(None, [no_smaller(removal, model.num_parameters(), facts.form), hint])),
    )
    return PrunedFolder(export, report)


def _stock_config(source: Path) -> Any:
    """Return the config of a folder.

    Raises:
        ValueError: the weights are quantised, the model is compact, or the config asks for code or
            for far too many layers.
    """
    path = source / "config.json"
    check_counts(read_json_object(path, most=JSON_LIMIT), path)
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    if getattr(config, LAYOUT_KEY, None) is not None:
        raise ValueError(
            f"{source} has quantised or compact weights ({LAYOUT_KEY} in config.json). Prune the "
            "folder that it was made of"
        )
    return config


def _check_names(model: Any, anatomy: Anatomy, shards: Shards, source: Path) -> None:
    """Raise ValueError unless the blocks have their names and shapes on the disk."""
    for group in groups_of(model, anatomy, ()):
        for name in group.parameters:
            wanted, found = tuple(model.get_parameter(name).shape), shards.shapes.get(name)
            if found != wanted:
                what = "not there" if found is None else f"of shape {found}"
                raise ValueError(
                    f"{name} of {type(model).__name__} was expected in {source} with the shape "
                    f"{wanted}, and is {what}. Transformers converts these weights when it loads "
                    "them. Load the model, and use prune_model and export_model"
                )


def _check_sites(sites: Sequence[Site], budget: Budget) -> None:
    """Raise ValueError for what cannot be pruned a block at a time."""
    kinds = {site.kind for site in sites}
    if "layer" in kinds:
        raise ValueError(
            "whole layers cannot be pruned from disk. Load the model and use prune_model, or leave "
            "layers_level at 'none'"
        )
    if "expert" in kinds:
        raise ValueError(
            "whole experts cannot be pruned from disk. Load the model and use prune_model, or "
            "leave experts_level at 'none'"
        )
    over_model = any(isinstance(site, WeightSite) and site.over == "model" for site in sites)
    if over_model or ("weight" in kinds and budget.kind == "global"):
        raise ValueError(
            "a global budget or rank_over='model' ranks all single weights at once, and needs the "
            "whole model. Use rank_over='matrix' and budget='uniform', or level='unit'"
        )


# From the name of a site to its chosen units, and from a block to its units that are still read.
_Chosen = dict[str, Tensor]
_Alive = dict[Block, Tensor]


def _choose_units(
    model: Any, shards: Shards, groups: Iterable[Group], sparsity: float, budget: Budget
) -> tuple[_Chosen, _Alive]:
    """Score the units of each group, and choose what the budget takes of them.

    Only the blocks of units are read. Blocks of single weights count as read by their consumers.
    """
    scored: list[Site] = []
    alive: _Alive = {}
    for group in groups:
        ranked = unit_sites(group.sites)
        if not ranked:
            alive |= {b: torch.ones(_units(model, b), dtype=torch.bool) for b in group.blocks}
            continue
        with filled(model, shards.read(group.parameters)):
            scored += [replace(site, given=scores_to_prune(site)) for site in ranked]
            alive |= {block: live_units(model, block).cpu() for block in group.blocks}
    if not scored:
        return {}, alive
    masks = budget.choose(scored, sparsity)
    chosen = {site.name: mask for site, mask in zip(scored, masks, strict=True)}
    for site in unit_sites(scored):
        alive[site.block] &= ~chosen[site.name].cpu()
    return chosen, alive


def _units(model: Any, block: Block) -> tuple[int, ...]:
    """Return the shape of the units of a block: `(units,)`, or `(experts, units)`."""
    return tuple(live_units(model, block).shape)


@dataclass(frozen=True)
class _Work:
    """The pruning and writing of all tensors.

    Attributes:
        model: the hollow model.
        anatomy: its reading.
        shards: to read.
        writer: to write.
        sparsity: for single weights.
        budget: for single weights.
        chosen: the units to remove, by the name of the site.
        kept: the units that stay in each block that is cut.
    """

    model: Any
    anatomy: Anatomy
    shards: Shards
    writer: ShardWriter
    sparsity: float
    budget: Budget
    chosen: _Chosen
    kept: Mapping[Holder, Tensor]

    def write_all(self, groups: Iterable[Group]) -> PruningReport:
        """Write all tensors in about the order of the source, and count what is removed."""
        by_parameter = {name: group for group in groups for name in group.parameters}
        reports: list[PruningReport] = []
        for name in self.shards.shapes:
            if name in self.writer.shapes:
                continue
            if name in by_parameter:
                reports.append(self._write_group(by_parameter[name]))
            else:
                self.writer.add(name, self.shards.read([name])[name])
        return self._joined(reports)

    def _joined(self, reports: Iterable[PruningReport]) -> PruningReport:
        """Return the report of the model, with layers and blocks in the order of its reading."""
        reports = list(reports)
        layers = {layer.name: layer for report in reports for layer in report.layers}
        blocks = {block.name: block for report in reports for block in report.blocks}
        order = dict.fromkeys(name for block in self.anatomy.blocks for name in block.modules)
        return PruningReport(
            layers=tuple(layers[name] for name in order),
            blocks=tuple(blocks[block.name] for block in self.anatomy.blocks),
            parameters=self.model.num_parameters(),
        )

    def _write_group(self, group: Group) -> PruningReport:
        with filled(self.model, self.shards.read(group.parameters)):
            for site in group.sites:
                mask = self.chosen.get(site.name)
                site.remove(self.budget.choose([site], self.sparsity)[0] if mask is None else mask)
            report = count_sparsity(self.model, group.blocks)
            kept: dict[Holder, Tensor] = {
                block: self.kept[block] for block in group.blocks if block in self.kept
            }
            smaller = cut_parameters(self.model, kept)
            for name in group.parameters:
                cut = smaller.get(name)
                whole = self.model.get_parameter(name).detach()
                self.writer.add(name, whole if cut is None else cut)
        return report


def _shrink(model: Any, kept: Mapping[Holder, Tensor], plan: Plan) -> None:
    """Give a hollow model the widths and the config of what was written."""
    shapes = smaller_shapes(model, kept)
    counts = new_counts(model, kept)
    dtypes = {name: model.get_parameter(name).dtype for name in shapes}
    swap(model, {name: hollow(shape, dtypes[name]) for name, shape in shapes.items()}, counts)
    renumber_heads(model, kept)
    forget_source(model)
    if plan.config is not None:
        model.config = plan.config
        model.config.architectures = [type(model).__name__]
    elif shapes:
        record_layout(model, shapes, counts)


def _check_shapes(model: Any, writer: ShardWriter, plan: Plan) -> None:
    """Raise RuntimeError if a tensor has another shape than the model that will load it."""
    loading = model if plan.config is None else build_empty(model, plan.config)
    for name, parameter in loading.named_parameters(remove_duplicate=False):
        written = writer.shapes.get(name)
        if written is not None and written != tuple(parameter.shape):
            raise RuntimeError(
                f"{name} was written with the shape {written}, and loading it needs "
                f"{tuple(parameter.shape)}; nothing was written"
            )


def _write_config(model: Any, draft: Path) -> None:
    """Write what `save_pretrained` writes beside the weights."""
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch, state_dict={})
        for path in Path(scratch).iterdir():
            if path.suffix not in _WEIGHTS:
                shutil.copyfile(path, draft / path.name)


def _carry_along(source: Path, draft: Path) -> None:
    """Copy the files that are no weights and not written anew."""
    for path in source.iterdir():
        weights = path.suffix in _WEIGHTS or path.name.endswith(".index.json")
        if (
            weights
            or path.name in _OWN
            or path.name.startswith(".")
            or (draft / path.name).exists()
        ):
            continue
        if path.is_file():
            shutil.copyfile(path, draft / path.name)
        elif path.name == "additional_chat_templates":
            shutil.copytree(path, draft / path.name)
    if (source / MODULES).is_file():
        copy_modules(source, draft)


def _removal(model: Any, report: PruningReport) -> Removal:
    return Removal(
        removed=report.removed,
        prunable=report.prunable,
        parameters=report.parameters,
        bytes=report.parameters * model.dtype.itemsize,
        structured=any(block.removed for block in report.blocks),
    )
