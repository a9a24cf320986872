"""Tries whether a model runs with fewer heads.

Some forwards cannot. BLOOM's position biases, for instance, are made for the number of heads in the
config, outside of the attention that adds them.
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

# The parameters that a cut replaced, by name, and the counts, by module name.
Undo = tuple[Mapping[str, Tensor], dict[str, dict[str, int]]]


def fixed_heads(model: nn.Module, blocks: Iterable[Block], runs: Runs) -> dict[Block, str]:
    """Return the attention blocks among `blocks` that have to keep all heads, with the reason.

    The module that contains a kind of block is run once, without its matrix products.
    """
    fixed: dict[Block, str] = {}
    for kind in _kinds(block for block in blocks if block.units > 1):
        reason = _refusal(model, {block: block.units - 1 for block in kind}, runs)
        if reason:
            fixed.update(dict.fromkeys(kind, reason))
    return fixed


def equalised(model: nn.Module, counts: Mapping[Holder, int], runs: Runs) -> dict[Holder, int]:
    """Raise counts until the forward runs: all blocks of a kind get the largest if they must agree.

    T5 makes one bias for the heads of its first cross-attention, and adds it in every layer.
    """
    found = dict(counts)
    for kind in _kinds(holder for holder in counts if isinstance(holder, Block)):
        wanted = {block: counts[block] for block in kind}
        if len(set(wanted.values())) > 1 and _refusal(model, wanted, runs):
            found.update(dict.fromkeys(kind, max(wanted.values())))
    return found


def _kinds(blocks: Iterable[Block]) -> list[list[Block]]:
    """Group the attention blocks that are at the same place of different layers."""
    kinds: defaultdict[str, list[Block]] = defaultdict(list)
    for block in blocks:
        if block.part == "attention":
            kinds[pattern_of(block.name)].append(block)
    return list(kinds.values())


def _refusal(model: nn.Module, counts: Mapping[Block, int], runs: Runs) -> str | None:
    """Return why the forward does not run with so many heads in these blocks; None if it does."""
    path = run_of(next(iter(counts)), runs)
    kept: dict[Holder, Tensor] = {block: torch.arange(count) for block, count in counts.items()}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    shapes = smaller_shapes(model, kept)
    smaller = {name: parameters[name].detach().new_empty(shape) for name, shape in shapes.items()}
    undo = swap(model, smaller, new_counts(model, kept))
    try:
        trace(model.get_submodule(path), runs[path])
    except Exception as error:
        return f"its forward does not run with fewer heads ({error})"
    finally:
        swap(model, *undo)
    return None


def swap(
    model: nn.Module, parameters: Mapping[str, Tensor], counts: Mapping[str, Mapping[str, int]]
) -> Undo:
    """Put other parameters and counts into a model, and return the previous ones."""
    before = dict(model.named_parameters(remove_duplicate=False))
    undo = (
        {name: before[name] for name in parameters},
        {m: {a: count_of(model.get_submodule(m), a) for a in c} for m, c in counts.items()},
    )
    for name, tensor in parameters.items():
        set_parameter(model, name, tensor)
    set_counts(model, counts)
    return undo
