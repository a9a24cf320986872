"""Prints the anatomy of a model: `hf-td inspect`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hf_td.anatomy import Anatomy, Block, Holder, LayerStack, read_anatomy, read_stacks
from hf_td.anatomy.blocks import pattern_of
from hf_td.cli.loading import load_model
from hf_td.tasks.errors import blaming_input
from hf_td.tasks.example_inputs import read_example_inputs

_FILE_WIDTH = 1000
_UNIT_NAMES = {"attention": "heads", "feed_forward": "neurons"}


def print_blocks(name: str, *, example_inputs: Path | None, trust_remote_code: bool) -> None:
    """Print the blocks of a model, and the layers that belong to no block or never run.

    Args:
        name: a folder, or an id on the Hub.
        example_inputs: file with inputs of one forward, or None.
        trust_remote_code: run the code in the model's repository.
    """
    model, _ = load_model(name, trust_remote_code=trust_remote_code)
    with blaming_input():
        inputs = read_example_inputs(example_inputs, model)
        anatomy = read_anatomy(model, inputs)
        stacks = read_stacks(model, inputs)
    # A file or a pipe gets full lines: names are there to be copied.
    console = Console(width=None if sys.stdout.isatty() else _FILE_WIDTH)
    console.print(_blocks_table(anatomy))
    for label, names in (("in no block", anatomy.unclaimed), ("never called", anatomy.uncalled)):
        if names:
            print(f"{label}: {', '.join(dict.fromkeys(map(pattern_of, names)))}")
    for stack in stacks:
        print(f"stack of layers: {_described(stack)}")


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
    table = Table("block", "units", "layers", "projections", "levels", show_lines=True)
    rows = Counter(_row(holder) for holder in anatomy.holders)
    for (name, units, projections, levels), layers in rows.items():
        table.add_row(name, units, str(layers), projections, levels)
    return table


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
