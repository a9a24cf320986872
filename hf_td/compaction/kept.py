"""Which units of a model are still alive, and which are kept when the others are taken out."""

from __future__ import annotations

from collections.abc import Mapping
from math import lcm
from typing import Any

import torch
from torch import Tensor, nn

from hf_td.anatomy import Anatomy, Block, Holder, Mixture, Stack, find_layer
from hf_td.compaction.runs import runs_of
from hf_td.compaction.trial import evened, fixed_heads
from hf_td.modules.routing import pruned_experts
from hf_td.ranking.importance import read_units

# Grouped matrix products refuse rows that are no multiple of 16 bytes: 8 numbers of 16 bits.
EXPERTS_MULTIPLE = 8


def live_units(model: nn.Module, block: Holder) -> Tensor:
    """Boolean `(units,)` or `(experts, units)`: whether the consumer reads anything of the unit.

    Only zero columns of the consumer make a unit dead. A head whose query or key is zero still
    averages its values, and a neuron whose weights are zero still passes its bias on. An expert is
    dead if its router never chooses it.
    """
    if isinstance(block, Mixture):
        return ~pruned_experts(model.get_submodule(block.router)).cpu()
    return read_units(find_layer(model, block.consumer.module), block.consumer).cpu()


def needed_units(
    model: nn.Module,
    anatomy: Anatomy,
    multiple_of: int = 1,
    example_inputs: Mapping[str, Any] | None = None,
) -> dict[Holder, int]:
    """For each block or mixture whose units can go, how many have to stay.

    At least one, and in a feed-forward part a multiple of `multiple_of` (or all of them). Experts
    keep as many neurons as the one that needs most, and a multiple of `EXPERTS_MULTIPLE`. Blocks
    whose forward cannot run with fewer heads are not in it.
    """
    live = _live_anywhere(model, anatomy)
    dead = _with_dead_heads(live)
    runs = runs_of(model, anatomy, example_inputs) if dead else {}
    fixed = fixed_heads(model, dead, runs) if dead else {}
    counts: dict[Holder, int] = {}
    for block in live:
        if block not in fixed:
            step = _step(model, block, multiple_of)
            alive = int(live[block].sum(-1).max())
            counts[block] = min(block.units, step * max(1, -(-alive // step)))
    return evened(model, counts, runs) if dead else counts


def _step(model: nn.Module, block: Holder, multiple_of: int) -> int:
    """What the number of units of a block has to be a multiple of."""
    if isinstance(block, Mixture) or block.part == "attention":
        return 1
    experts = isinstance(find_layer(model, block.consumer.module), Stack)
    return lcm(multiple_of, EXPERTS_MULTIPLE) if experts else multiple_of


def dead_heads(model: nn.Module, anatomy: Anatomy) -> list[Block]:
    """The attention blocks that have heads without effect."""
    return _with_dead_heads(_live_anywhere(model, anatomy))


def _with_dead_heads(live: Mapping[Holder, Tensor]) -> list[Block]:
    heads = [block for block in live if isinstance(block, Block) and block.part == "attention"]
    return [block for block in heads if not live[block].all()]


def choose_units(
    model: nn.Module, anatomy: Anatomy, counts: Mapping[Holder, int]
) -> dict[Holder, Tensor]:
    """For each block, the sorted indices of the units that stay: the live ones, then dead ones.

    `(count,)`, or `(experts, count)`.
    """
    live = _live_anywhere(model, anatomy)
    return {block: _first(live[block], count) for block, count in counts.items()}


def _live_anywhere(model: nn.Module, anatomy: Anatomy) -> dict[Holder, Tensor]:
    """For each block whose units can go, those that are alive in it or in one that is tied to it.

    Weights are large, so each is read once. Mixtures are tied to none.
    """
    own = {block: live_units(model, block) for block in anatomy.blocks}
    blocks: dict[Holder, Tensor] = {
        block: torch.stack([own[other] for other in anatomy.tied(block)]).any(0)
        for block in anatomy.blocks
        if block.obstacle is None
    }
    return blocks | {m: live_units(model, m) for m in anatomy.mixtures if m.obstacle is None}


def _first(live: Tensor, count: int) -> Tensor:
    return (~live).long().argsort(stable=True)[..., :count].sort().values
