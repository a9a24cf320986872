"""Shows what is in a model, and what pruning would make of it: `hf-td inspect`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from hf_td.anatomy import Anatomy, Block, Holder, LayerStack, find_layer, read_anatomy, read_stacks
from hf_td.anatomy.blocks import pattern_of
from hf_td.cli.answers import Answer
from hf_td.cli.loading import load_model
from hf_td.cli.shrinking import Smaller, smaller_models, weight_bytes
from hf_td.hub.forms import FORMS
from hf_td.tasks.errors import blaming_input
from hf_td.tasks.example_inputs import read_example_inputs

_HEADS = ("block", "units", "layers", "projections", "levels")
_SPARSITIES = (0.25, 0.5, 0.75)
_UNIT_NAMES = {"attention": "heads", "feed_forward": "neurons"}


def inspect_model(name: str, *, example_inputs: Path | None, trust_remote_code: bool) -> Answer:
    """Return what is in a model, and what pruning would make of it.

    Args:
        name: a folder, or an id on the Hub.
        example_inputs: file with inputs of one forward, or None.
        trust_remote_code: run the code in the model's repository.

    Raises:
        UsageError: the model cannot be loaded or read.
    """
    model, _ = load_model(name, trust_remote_code=trust_remote_code)
    with blaming_input():
        inputs = read_example_inputs(example_inputs, model)
        anatomy = read_anatomy(model, inputs)
        stacks = read_stacks(model, inputs)
    size = _size(model, anatomy)
    smaller, why_none = _smaller(model, anatomy, inputs)
    layers = {"in no block": anatomy.unclaimed, "never called": anatomy.uncalled}
    shown = [
        _blocks_table(anatomy),
        *(
            f"{label}: {', '.join(dict.fromkeys(map(pattern_of, names)))}"
            for label, names in layers.items()
            if names
        ),
        *(f"stack of layers: {_described(stack)}" for stack in stacks),
        *_size_lines(size),
        *([_smaller_table(smaller), *_form_lines(smaller)] if smaller else [why_none]),
    ]
    values = {
        "blocks": [dict(zip(_HEADS, row, strict=True)) for row in _rows(anatomy)],
        "in_no_block": anatomy.unclaimed,
        "never_called": anatomy.uncalled,
        "stacks": [_described(stack) for stack in stacks],
        "size": size,
        "pruned": [asdict(one) for one in smaller],
    }
    return Answer(shown=tuple(shown), values=values)


def _size(model: Any, anatomy: Anatomy) -> dict[str, int]:
    """Return the parameters and bytes of a model, and of its prunable weights."""
    names = dict.fromkeys(n for b in anatomy.blocks for n in b.modules)
    weights = {id(w): w for w in (find_layer(model, name).weight for name in names)}.values()
    return {
        "parameters": model.num_parameters(),
        "bytes": weight_bytes(model),
        "prunable_parameters": sum(weight.numel() for weight in weights),
        "prunable_bytes": sum(weight.nbytes for weight in weights),
    }


def _size_lines(size: dict[str, int]) -> Iterator[str]:
    yield f"all: {size['parameters']:,} parameters, {size['bytes'] / 1e6:.1f} MB"
    share = size["prunable_parameters"] / size["parameters"]
    yield (
        f"prunable: {size['prunable_parameters']:,} parameters ({share:.1%}), "
        f"{size['prunable_bytes'] / 1e6:.1f} MB"
    )
    rest = size["parameters"] - size["prunable_parameters"]
    rest_bytes = size["bytes"] - size["prunable_bytes"]
    yield f"not prunable: {rest:,} parameters, {rest_bytes / 1e6:.1f} MB"


def _smaller(model: Any, anatomy: Anatomy, inputs: Any) -> tuple[list[Smaller], str]:
    """Return what is left at each sparsity, or why nothing can be taken out."""
    try:
        return smaller_models(model, _SPARSITIES, anatomy=anatomy, example_inputs=inputs), ""
    except ValueError as error:
        return [], f"no heads or neurons can be taken out: {error}"


def _smaller_table(smaller: list[Smaller]) -> Table:
    title = "heads and neurons taken out"
    table = Table("prunable removed", "parameters", "MB of weights", "form", title=title)
    for one in smaller:
        size = f"{one.bytes / 1e6:.1f}"
        table.add_row(f"{one.removed:.1%}", f"{one.parameters:,}", size, one.form)
    return table


def _form_lines(smaller: list[Smaller]) -> Iterator[str]:
    """Yield for each form whether it can hold the models that are left, or why it cannot."""
    for form, row in FORMS.items():
        reasons = dict.fromkeys(filter(None, (one.refused[form] for one in smaller)))
        yield f"form {form}: {'; '.join(reasons) if reasons else row.help}"


def _described(stack: LayerStack) -> str:
    """Return which layers of a stack can be pruned whole, and why others cannot."""
    if stack.obstacle is not None:
        return f"{stack.name}, no layer can be pruned whole: {stack.obstacle}"
    if not stack.fixed:
        return f"{stack.name}, {stack.units} layers that can be pruned whole"
    first, why = next(iter(stack.fixed.items()))
    stay = ", ".join(map(str, stack.fixed))
    return (
        f"{stack.name}, {stack.units - len(stack.fixed)} of {stack.units} layers can be pruned "
        f"whole, all but {stay} (without {first}, {why})"
    )


def _blocks_table(anatomy: Anatomy) -> Table:
    """Return a table with one row for all blocks that differ only in the index of their layer."""
    table = Table(*_HEADS, show_lines=True)
    for row in _rows(anatomy):
        table.add_row(*row)
    return table


def _rows(anatomy: Anatomy) -> Iterator[tuple[str, ...]]:
    rows = Counter(_row(holder) for holder in anatomy.holders)
    for (name, units, projections, levels), layers in rows.items():
        yield name, units, str(layers), projections, levels


def _row(holder: Holder) -> tuple[str, str, str, str]:
    weights = ["weight"] if isinstance(holder, Block) else []
    levels = [*weights, *([] if holder.obstacle else ["unit"])]
    projections = "\n".join(_projections(holder)) if isinstance(holder, Block) else ""
    obstacle = f" ({pattern_of(holder.obstacle)})" if holder.obstacle else ""
    return pattern_of(holder.name), _units(holder), projections, ", ".join(levels) + obstacle


def _units(holder: Holder) -> str:
    queries = _query_heads(holder) if isinstance(holder, Block) else 1
    if queries > 1:
        return f"{holder.units:,} KV heads, each with {queries} query heads"
    return f"{holder.units:,} {_UNIT_NAMES.get(holder.part, holder.part)}"


def _query_heads(block: Block) -> int:
    """Return the number of query heads of a unit; 1 without separate keys."""
    sizes = {p.role: p.features.shape[1] for p in block.producers}
    return sizes["q"] // sizes["k"] if {"q", "k"} <= sizes.keys() else 1


def _projections(block: Block) -> Iterator[str]:
    """Yield the last part of each layer's name, with its roles."""
    for name in block.modules:
        roles = dict.fromkeys(p.role for p in block.projections if p.module == name)
        yield f"{name.rpartition('.')[2]} ({' '.join(roles)})"
