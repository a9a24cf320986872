"""Writes a pruned model in the form that loads most widely, and proves that it does."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from torch.nn.utils.parametrize import is_parametrized
from transformers import PreTrainedModel

from hf_td.anatomy import (
    Anatomy,
    Holder,
    Mixture,
    in_own_type,
    linear_layers,
    probe_inputs,
    read_anatomy,
)
from hf_td.compaction import cut_model, layout_of_model, needed_units
from hf_td.files import check_free, folder_bytes, whole_folder
from hf_td.hub.archived import write_archived_model
from hf_td.hub.card import ExportFacts, write_card
from hf_td.hub.card_info import CardInfo
from hf_td.hub.onnx_graph import check_extra, check_graph, write_graph
from hf_td.hub.remote_code import auto_classes, make_stock_class, write_modeling_file
from hf_td.hub.removal import count_removal
from hf_td.hub.stock import express, unexpressed
from hf_td.hub.verify import verify_export
from hf_td.patching.patch import find_patch, unpatch_model

Form = Literal["auto", "stock", "compact", "padded", "archive", "onnx"]

_ASKED = "it was asked for"


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        folder: where.
        form: `stock`, `compact`, `padded`, `archive` or `onnx`.
        reason: why this form.
        parameters: number of parameters of the exported model.
        bytes: size of all files.
        ways: the ways in which it was loaded again and compared.
    """

    folder: Path
    form: str
    reason: str
    parameters: int
    bytes: int
    ways: tuple[str, ...]


@dataclass(frozen=True)
class _Plan:
    """A form that was chosen: how many units each block keeps, and the config of the result."""

    form: str
    reason: str
    counts: Mapping[Holder, int]
    config: Any = None


def export_model(
    model: Any,
    folder: str | Path,
    *,
    form: Form = "auto",
    keep_heads_stock: bool = False,
    multiple_of: int = 8,
    processing_class: Any = None,
    metrics: Mapping[str, Any] | None = None,
    card: CardInfo | None = None,
    overwrite: bool = False,
    check: bool = True,
    example_inputs: Mapping[str, Any] | None = None,
) -> Export:
    """Write a pruned model as a folder that `from_pretrained` loads.

    Args:
        model: a `PreTrainedModel`, pruned (masked) or compact already; it is not changed.
        folder: where to; written as a whole or not at all.
        form: `stock` needs nothing but transformers: uniform widths in the fields of the stock
            config. `compact` has uneven widths: it loads after `import hf_td`, or without it by
            `trust_remote_code=True`. `padded` fills up with zeros to what a stock config can
            say. `auto` is stock where that loses nothing, else compact. `archive` takes nothing
            out and compresses the weights without loss, for models that were pruned at the
            weight level; `hf_td.hub.load_archived_model` loads it. `onnx` is the compact
            graph for engines that read ONNX; it needs the extra `onnx`.
        keep_heads_stock: with `stock`, keep all heads (dead ones as zeros) where the stock
            config cannot express fewer, and take only neurons out.
        multiple_of: feed-forward widths are rounded up to a multiple of it.
        processing_class: tokenizer or processor to save along.
        metrics: written to metrics.json.
        card: facts for the model card, which tells what the model itself shows in any case.
        overwrite: whether a folder that holds something may be replaced.
        check: load the export in a fresh process, in every way it promises, and compare.
        example_inputs: keyword arguments for one forward of `model`, where the kind of its main
            input is not known.

    Raises:
        FileExistsError: the folder holds something and `overwrite` is False.
        ImportError: the form is `onnx` and the extra `onnx` is not installed.
        TypeError: the model is no `PreTrainedModel`.
        ValueError: the form cannot hold this model (the message says which can), or a baseline or
            an adapter is attached to it.
        RuntimeError: the export did not load, or computed something else; nothing was written.
    """
    check_free(Path(folder).absolute(), overwrite=overwrite)
    _check_plain(model)
    if form == "onnx":
        check_extra()
    shell = _shell_of(model)
    anatomy = read_anatomy(shell, example_inputs)
    needed = needed_units(shell, anatomy, multiple_of, example_inputs)
    plan = _plan(shell, anatomy, form, keep_heads_stock, needed)
    removal = count_removal(shell, anatomy.holders)  # before it is cut
    _make(shell, anatomy, plan, example_inputs if check else None, check)
    with whole_folder(folder, overwrite=overwrite) as temporary:
        _write(shell, plan, temporary, processing_class, metrics, example_inputs)
        facts = ExportFacts(
            name=Path(folder).absolute().name,
            form=plan.form,
            removal=removal,
            processing_class=processing_class,
        )
        write_card(temporary, shell, card, facts)
        ways = _WAYS[plan.form]
        for way in ways if check else ():
            _verify(model, shell, temporary, way, example_inputs)
    return Export(
        folder=Path(folder),
        form=plan.form,
        reason=plan.reason,
        parameters=shell.num_parameters(),
        bytes=folder_bytes(folder),
        ways=ways if check else (),
    )


# In what ways each form has to load.
_WAYS: dict[str, tuple[str, ...]] = {
    "stock": ("stock",),
    "padded": ("stock",),
    "compact": ("hf_td", "remote_code"),
    "archive": ("archive",),
    "onnx": ("onnxruntime",),
}


def _check_plain(model: Any) -> None:
    """Raise where something is added to a stock model that no checkpoint of one can say."""
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            "export_model writes what from_pretrained loads, so it takes a PreTrainedModel, got "
            f"{type(model).__name__}; of a model with adapters export what merge_and_unload() gives"
        )
    computed = [name for name, layer in linear_layers(model).items() if is_parametrized(layer)]
    if computed:
        raise ValueError(
            f"the weight of {computed[0]} is computed, as under a baseline or any other "
            "parametrization; call finish_baseline, or remove the parametrization, first"
        )
    adapted = [name for name, module in model.named_modules() if hasattr(module, "base_layer")]
    if adapted:
        raise ValueError(f"{adapted[0]} has an adapter; merge it into the model, and export that")


def _shell_of(model: Any) -> Any:
    """A copy that shares every tensor with the model: cutting it leaves the model alone."""
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    with in_own_type(model):
        shell = copy.deepcopy(model, shared)
    make_stock_class(shell)
    return unpatch_model(shell) if find_patch(shell) is not None else shell


def _plan(
    model: Any, anatomy: Anatomy, form: Form, keep_heads_stock: bool, needed: Mapping[Holder, int]
) -> _Plan:
    if form not in get_args(Form):
        raise ValueError(f"form must be one of {[*get_args(Form)]}, got {form!r}")
    if form == "archive":
        return _Plan(form, _ASKED, {})
    if form in ("compact", "onnx"):
        return _Plan(form, _ASKED, needed)
    config, units = express(model, anatomy.holders, needed)
    wider = [block for block, count in units.items() if count > needed.get(block, block.units)]
    lost = unexpressed(model, anatomy.holders, config)
    if form == "auto":
        if not wider and not lost:
            return _Plan("stock", "a stock config expresses every width", units, config)
        reason = f"no stock config expresses the widths of {_listed(_names(wider) + lost)}"
        return _Plan("compact", reason, needed)
    _check_experts(wider)
    if form == "stock":
        _check_stock(wider, keep_heads_stock)
    _check_not_gone(_names([block for block, count in units.items() if count > block.units]) + lost)
    kept = ", with all heads kept" if form == "stock" and wider else ""
    return _Plan(form, _ASKED + kept, units, config)


def _check_experts(wider: list[Holder]) -> None:
    """Zeros in the place of an expert would be chosen by the router of a stock model."""
    uneven = _names([holder for holder in wider if isinstance(holder, Mixture)])
    if uneven:
        raise ValueError(
            "a stock config cannot express the numbers of experts that are left, first of "
            f"{_listed(uneven)}, and experts cannot be padded with zeros; use form='compact'"
        )


def _check_stock(wider: list[Holder], keep_heads_stock: bool) -> None:
    heads = all(block.part == "attention" for block in wider)
    if wider and not (heads and keep_heads_stock):
        hint = "keep_heads_stock=True, " if heads else ""
        raise ValueError(
            f"a stock config cannot express the widths of {_listed(_names(wider))}; pass {hint}"
            "form='padded' (zeros up to what it can express) or form='compact'"
        )


def _check_not_gone(padded: list[str]) -> None:
    if padded:
        raise ValueError(
            f"{_listed(padded)} would have to be padded, but their dead units are gone "
            "already; export the masked model (before compact_model), or use form='compact'"
        )


def _names(blocks: list[Holder]) -> list[str]:
    return [block.name for block in blocks]


def _listed(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _make(
    shell: Any,
    anatomy: Anatomy,
    plan: _Plan,
    example_inputs: Mapping[str, Any] | None,
    check: bool,
) -> None:
    """Cut the shell as planned, and give it the config that belongs to it."""
    counts = {block: count for block, count in plan.counts.items() if block.obstacle is None}
    if any(count < block.units for block, count in counts.items()):
        cut_model(shell, anatomy, counts, check=check, example_inputs=example_inputs)
    if plan.config is not None:
        shell.config = plan.config
        shell.config.architectures = [type(shell).__name__]


def _write(
    shell: Any,
    plan: _Plan,
    folder: Path,
    processing_class: Any,
    metrics: Mapping[str, Any] | None,
    example_inputs: Mapping[str, Any] | None,
) -> None:
    if plan.form == "compact" and layout_of_model(shell) is not None:
        write_modeling_file(shell, folder)
    if plan.form == "onnx":
        write_graph(shell, folder, example_inputs)
        shell.config.save_pretrained(folder)  # with the names of the labels
    elif plan.form == "archive":
        write_archived_model(shell, folder)
    else:
        # Names are mapped by class, and a class of remote code has no map of its own: what is
        # loaded by one is written under the names of the model.
        shell.save_pretrained(folder, save_original_format=plan.form != "compact")
    if processing_class is not None:
        processing_class.save_pretrained(folder)
    if metrics is not None:
        text = json.dumps(metrics, indent=2, allow_nan=False)
        (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")


def _verify(
    model: Any, shell: Any, folder: Path, way: str, example_inputs: Mapping[str, Any] | None
) -> None:
    if way == "onnxruntime":
        check_graph(model, folder, example_inputs)
    else:
        inputs = example_inputs or probe_inputs(model)
        verify_export(model, folder, _auto_class(shell), way, inputs)


def _auto_class(model: Any) -> str:
    names = auto_classes(model)
    return names[0] if names else type(model).__name__
