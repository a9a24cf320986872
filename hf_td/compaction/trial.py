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
from hf_td.modules.compact_shapes import count_of, set_counts, set_parameter

# What a cut replaced: parameters by name, and counts by module name.
Undo = tuple[Mapping[str, Tensor], dict[str, dict[str, int]]]


def fixed_heads(model: nn.Module, blocks: Iterable[Block], runs: Runs) -> dict[Block, str]:
    """The attention blocks among `blocks` that have to keep all their heads, and why.

    What they are part of is run once for each kind of block, without its matrix products.
    """
    kinds = _kinds(block for block in blocks if block.units > 1)
    reasons = {
        kind: _refusal(model, {block: block.units - 1 for block in alike}, runs)
        for kind, alike in kinds.items()
    }
    return {block: reason for kind, reason in reasons.items() if reason for block in kinds[kind]}


def evened(model: nn.Module, counts: Mapping[Holder, int], runs: Runs) -> dict[Holder, int]:
    """Counts with which the forward runs: blocks of one kind get the largest where they have to.

    T5 makes one bias for the heads of its first cross-attention, and adds it in every layer.
    """
    found = dict(counts)
    for alike in _kinds(holder for holder in counts if isinstance(holder, Block)).values():
        wanted = {block: counts[block] for block in alike}
        if len(set(wanted.values())) > 1 and _refusal(model, wanted, runs):
            found.update(dict.fromkeys(alike, max(wanted.values())))
    return found


def _kinds(blocks: Iterable[Block]) -> dict[str, list[Block]]:
    """Attention blocks at the same place of different layers."""
    kinds: defaultdict[str, list[Block]] = defaultdict(list)
    for block in blocks:
        if block.part == "attention":
            kinds[pattern_of(block.name)].append(block)
    return kinds


def _refusal(model: nn.Module, counts: Mapping[Block, int], runs: Runs) -> str | None:
    """What the forward says to so many heads in these blocks."""
    path = run_of(next(iter(counts)), runs)
    kept: dict[Holder, Tensor] = {block: torch.arange(count) for block, count in counts.items()}
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
