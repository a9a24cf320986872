"""Asks a model itself whether it runs with fewer heads.

Some forwards cannot: BLOOM's position biases, for instance, are made for the number of heads in
the config, outside of the attention that adds them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from hf_td.anatomy import Block, Holder
from hf_td.anatomy.blocks import pattern_of
from hf_td.anatomy.trace import trace
from hf_td.compaction.runs import Runs, run_of
from hf_td.compaction.surgery import new_counts, smaller_shapes
from hf_td.layout import count_of, set_counts, set_parameter

# What a cut replaced: parameters by name, and counts by module name.
Undo = tuple[Mapping[str, Tensor], dict[str, dict[str, int]]]


def fixed_heads(model: nn.Module, blocks: Iterable[Block], runs: Runs) -> dict[Block, str]:
    """The attention blocks among `blocks` that have to keep all their heads, and why.

    What they are part of is run once for each kind of block, without its matrix products.
    """
    kinds: defaultdict[str, list[Block]] = defaultdict(list)
    for block in blocks:
        if block.part == "attention" and block.units > 1:
            kinds[pattern_of(block.name)].append(block)
    reasons = {kind: _refusal(model, alike, runs) for kind, alike in kinds.items()}
    return {block: reason for kind, reason in reasons.items() if reason for block in kinds[kind]}


def _refusal(model: nn.Module, blocks: list[Block], runs: Runs) -> str | None:
    """What the forward says to one head fewer in each of these blocks."""
    path = run_of(blocks[0], runs)
    kept: dict[Holder, Tensor] = {block: torch.arange(block.units - 1) for block in blocks}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    shapes = smaller_shapes(model, kept)
    smaller = {name: parameters[name].detach().new_empty(shape) for name, shape in shapes.items()}
    undo = replace(model, smaller, new_counts(model, kept))
    try:
        trace(model.get_submodule(path), runs[path])
    except Exception as error:
        return f"its forward does not run with fewer heads ({error})"
    finally:
        replace(model, *undo)
    return None


def replace(
    model: nn.Module, parameters: Mapping[str, Tensor], counts: Mapping[str, Mapping[str, int]]
) -> Undo:
    """Put other parameters and counts into a model, and return what was there."""
    before = dict(model.named_parameters(remove_duplicate=False))
    undo = (
        {name: before[name] for name in parameters},
        {m: {a: count_of(model.get_submodule(m), a) for a in c} for m, c in counts.items()},
    )
    for name, tensor in parameters.items():
        set_parameter(model, name, tensor)
    set_counts(model, counts)
    return undo
