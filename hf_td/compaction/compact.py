"""Takes removed heads, neurons, experts and layers out of a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from hf_td.anatomy import Anatomy, Block, Holder, Mixture
from hf_td.anatomy.given import anatomy_of
from hf_td.anatomy.replaced import check_not_fully_sharded
from hf_td.compaction.alignment import renumber_heads
from hf_td.compaction.check import Footprint, compare, footprint
from hf_td.compaction.kept import check_multiple, choose_units, dead_heads, needed_units
from hf_td.compaction.layers import take_out_layers
from hf_td.compaction.runs import Runs, runs_of, trial_runs_of
from hf_td.compaction.surgery import Cuts, cut_parameters, cuts_of, new_counts
from hf_td.compaction.trial import Undo, fixed_heads, swap
from hf_td.compaction.undo import CutRecord
from hf_td.modules.compact_layout import record_layout
from hf_td.modules.compact_shapes import count_of
from hf_td.modules.passing import passed_layers
from hf_td.modules.routing import mark_pruned, marked_routers
from hf_td.modules.unsharing import unshare_config
from hf_td.patching.patch import find_patch, unpatch_model
from hf_td.ranking.source import forget_source, keep_unsaved

ModelT = TypeVar("ModelT", bound=nn.Module)


def compact_model(
    model: ModelT,
    *,
    multiple_of: int = 8,
    check: bool = True,
    anatomy: Anatomy | None = None,
    example_inputs: Mapping[str, Any] | None = None,
) -> ModelT:
    """Take what pruning left without effect out of a model, in place.

    That is heads, neurons, experts and whole layers. With layers the counts and lists in the config
    follow, and the indices that caches use, as in a stock model of fewer layers.

    A unit is taken out if its consumer reads nothing of it (all its columns are zero), an expert if
    its router never chooses it. Every layer keeps at least one unit, even one that contributes
    nothing. If the forward of a family needs all heads, they stay, as zeros. The layout is recorded
    in `model.config`, of a model with a head in a copy of its own: what `save_pretrained` writes
    loads again after `import hf_td`, or by its own file, with `trust_remote_code=True`.

    Args:
        model: a model that was pruned at the unit level; patched models are unpatched.
        multiple_of: feed-forward widths are rounded up to a multiple of it, by keeping dead
            neurons; 1 for the narrowest (of experts, 8, as their kernels demand).
        check: compare the outputs of the masked and the compact model on a small input.
        anatomy: what `read_anatomy(model)` returned; None reads the model.
        example_inputs: what `model(**example_inputs)` takes: keyword arguments of one forward.
            They are needed only where none that can be made runs.

    Returns:
        `model` itself.

    Raises:
        TypeError: FSDP2 has sharded the model.
        ValueError: no unit can be taken out; a weight is not finite; the anatomy is of another
            model; or the compact model differs from the masked one. The message then names the
            first layer that differs, and the model is left as it was.
    """
    check_multiple(multiple_of)
    check_not_fully_sharded(model)
    if find_patch(model) is not None:
        unpatch_model(model)
    unshare_config(model)
    put_back = take_out_layers(model, check=check, example_inputs=example_inputs)
    try:
        # An anatomy names the layers as they were before any was taken out.
        anatomy = anatomy_of(model, None if put_back else anatomy, example_inputs)
        counts = needed_units(model, anatomy, multiple_of, example_inputs)
        if _removes_any(counts):
            cut_model(model, anatomy, counts, check=check, example_inputs=example_inputs)
        elif put_back is None:
            raise ValueError(_nothing_dead(model, anatomy, multiple_of, example_inputs))
    except Exception:
        if put_back is not None:
            put_back()
        raise
    forget_source(model)
    keep_unsaved(model)
    return model


def can_compact(
    model: nn.Module,
    *,
    multiple_of: int = 8,
    anatomy: Anatomy | None = None,
    example_inputs: Mapping[str, Any] | None = None,
) -> bool:
    """Return whether `compact_model` can take anything out, given the same arguments."""
    check_multiple(multiple_of)
    if passed_layers(model):
        return True
    anatomy = anatomy_of(model, anatomy, example_inputs)
    return _removes_any(needed_units(model, anatomy, multiple_of, example_inputs))


def _removes_any(counts: Mapping[Holder, int]) -> bool:
    return any(count < block.units for block, count in counts.items())


def cut_model(
    model: ModelT,
    anatomy: Anatomy,
    counts: Mapping[Holder, int],
    *,
    check: bool = True,
    example_inputs: Mapping[str, Any] | None = None,
) -> ModelT:
    """Take units out, dead ones first, until each block has as many as `counts` says.

    Raises:
        ValueError: as for `compact_model`.
    """
    kept = choose_units(model, anatomy, counts)
    routers = marked_routers(model)
    try:
        if check:
            _cut_and_compare(model, anatomy, kept, example_inputs)
        else:
            for _, undo in _cut_in_turn(model, anatomy, kept):
                _record(model, *undo)
        renumber_heads(model, kept)
        forget_source(model)
        keep_unsaved(model)
    finally:
        for router in routers.values():
            mark_pruned(router)  # makes it a stock module again, unless the cut was undone
    return model


def _cut_and_compare(
    model: nn.Module,
    anatomy: Anatomy,
    kept: Mapping[Holder, Tensor],
    example_inputs: Mapping[str, Any] | None,
) -> None:
    # Made once: both models have to get the same inputs.
    runs = runs_of(model, anatomy, example_inputs)
    before = _footprint(model, anatomy, runs)
    if not before.wide:
        before = _footprint(model, anatomy, runs, wide=False)
    records = [CutRecord.of(cuts, undo) for cuts, undo in _cut_in_turn(model, anatomy, kept)]
    try:
        compare(before, _footprint(model, anatomy, runs, before.wide))
    except Exception as error:
        for record in reversed(records):
            record.undo(model)
        raise ValueError(
            f"{type(model).__name__} cannot be made compact, and was left as it was: {error}"
        ) from error
    for record in records:
        _record(model, record.parameters, record.counts)


def _cut_in_turn(
    model: nn.Module, anatomy: Anatomy, kept: Mapping[Holder, Tensor]
) -> Iterator[tuple[Cuts, Undo]]:
    """Cut one block after the other: the model is never in memory twice.

    Tied blocks share a parameter and are cut together. Whole experts come last, because neurons are
    counted in all experts.
    """
    done: set[Holder] = set()
    for block in sorted(kept, key=lambda holder: isinstance(holder, Mixture)):
        tied = anatomy.tied(block) if isinstance(block, Block) else (block,)
        units = {b: kept[b] for b in tied if b in kept and b not in done}
        done.update(units)
        cuts = cuts_of(model, units)
        if cuts:
            yield cuts, swap(model, cut_parameters(model, units), new_counts(model, units))


def _footprint(
    model: nn.Module, anatomy: Anatomy, runs: Runs, wide: bool | None = None
) -> Footprint:
    # A consumer that produces for another block, as in a row of three layers, is cut itself.
    produced = {p.module for block in anatomy.blocks for p in block.producers}
    consumers = [b.consumer.module for b in anatomy.blocks if b.consumer.module not in produced]
    values: dict[str, Tensor] = {}
    widths: list[bool] = []
    for path, inputs in runs.items():
        within = f"{path}." if path else ""
        names = [name.removeprefix(within) for name in consumers if name.startswith(within)]
        seen = footprint(model.get_submodule(path), inputs, names, wide)
        values |= {within + name: value for name, value in seen.values.items()}
        widths.append(seen.wide)
    return Footprint(values, all(widths))


def _record(
    model: nn.Module, replaced: Iterable[str], counts: Mapping[str, Mapping[str, int]]
) -> None:
    """Add what was cut to the layout in the config, if the model has a config."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    record_layout(
        model,
        {name: tuple(parameters[name].shape) for name in replaced},
        {m: {a: count_of(model.get_submodule(m), a) for a in c} for m, c in counts.items()},
    )


def _nothing_dead(
    model: nn.Module,
    anatomy: Anatomy,
    multiple_of: int,
    example_inputs: Mapping[str, Any] | None,
) -> str:
    runs = trial_runs_of(model, anatomy, example_inputs)
    fixed = fixed_heads(model, dead_heads(model, anatomy), runs)
    if fixed:
        stay = [f"{block.name}: {reason}" for block, reason in fixed.items()]
        return (
            f"no unit of {type(model).__name__} can be taken out: no neuron is without effect, and "
            f"all heads have to stay: {stay}"
        )
    obstacles = [f"{b.name}: {b.obstacle}" for b in anatomy.blocks if b.obstacle]
    return (
        f"no unit of {type(model).__name__} can be taken out: every head and every group of "
        f"{multiple_of} neurons is still read by its consumer. Prune it first with "
        "prune_model(model, sparsity, level='unit')"
        + (f". Not looked at: {obstacles}" if obstacles else "")
    )
