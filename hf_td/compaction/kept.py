"""Finds the units of a model that are alive, and chooses those that stay."""

from __future__ import annotations

from collections.abc import Mapping
from math import lcm
from typing import Any

import torch
from torch import Tensor, nn

from hf_td.anatomy import Anatomy, Block, Holder, Mixture, Stack, find_layer
from hf_td.compaction.runs import trial_runs_of
from hf_td.compaction.trial import equalised, fixed_heads
from hf_td.pruning.report import live_units

# Grouped matrix products refuse rows that are no multiple of 16 bytes: 8 numbers of 16 bits.
EXPERTS_MULTIPLE = 8

# From a block to its units that its own consumer reads, boolean.
Alive = Mapping[Block, Tensor]


def check_multiple(multiple_of: int) -> None:
    """Raise ValueError unless widths can be rounded up to a multiple of this number."""
    if multiple_of < 1:
        raise ValueError(f"multiple_of is a positive number of neurons, got {multiple_of}")


def needed_units(
    model: nn.Module,
    anatomy: Anatomy,
    multiple_of: int = 1,
    example_inputs: Mapping[str, Any] | None = None,
    *,
    alive: Alive | None = None,
) -> dict[Holder, int]:
    """Count the units that have to stay in each block or mixture whose units can be taken out.

    At least one stays, and in a feed-forward part a multiple of `multiple_of` (or all of them).
    Every expert keeps as many neurons as the expert that needs most, and a multiple of
    `EXPERTS_MULTIPLE`. Blocks whose forward cannot run with fewer heads are left out.

    Args:
        model: the masked model.
        anatomy: its reading.
        multiple_of: divides the widths of feed-forward parts.
        example_inputs: of one forward.
        alive: what `live_units` returns for each block; None reads it from the weights.
    """
    live = _live_anywhere(model, anatomy, alive)
    dead = _with_dead_heads(live)
    runs = trial_runs_of(model, anatomy, example_inputs) if dead else {}
    fixed = fixed_heads(model, dead, runs) if dead else {}
    counts: dict[Holder, int] = {}
    for block in live:
        if block not in fixed:
            step = _step(model, block, multiple_of)
            most = int(live[block].sum(-1).max())
            counts[block] = min(block.units, step * max(1, -(-most // step)))
    return equalised(model, counts, runs) if dead else counts


def _step(model: nn.Module, block: Holder, multiple_of: int) -> int:
    """Return the number that the count of units of a block has to be a multiple of."""
    if isinstance(block, Mixture) or block.part == "attention":
        return 1
    experts = isinstance(find_layer(model, block.consumer.module), Stack)
    return lcm(multiple_of, EXPERTS_MULTIPLE) if experts else multiple_of


def dead_heads(model: nn.Module, anatomy: Anatomy) -> list[Block]:
    """Return the attention blocks that have heads without effect."""
    return _with_dead_heads(_live_anywhere(model, anatomy))


def _with_dead_heads(live: Mapping[Holder, Tensor]) -> list[Block]:
    heads = [block for block in live if isinstance(block, Block) and block.part == "attention"]
    return [block for block in heads if not live[block].all()]


def choose_units(
    model: nn.Module,
    anatomy: Anatomy,
    counts: Mapping[Holder, int],
    *,
    alive: Alive | None = None,
) -> dict[Holder, Tensor]:
    """Return the sorted indices of the units that stay: live ones first, then dead ones.

    The indices of a block are `(count,)`, or `(experts, count)`. `alive` is as for `needed_units`.
    """
    live = _live_anywhere(model, anatomy, alive)
    return {
        block: (~live[block]).long().argsort(stable=True)[..., :count].sort().values
        for block, count in counts.items()
    }


def _live_anywhere(
    model: nn.Module, anatomy: Anatomy, alive: Alive | None = None
) -> dict[Holder, Tensor]:
    """Return the units of each block that are alive in it or in a block tied to it.

    Blocks whose units cannot be taken out are left out. Weights are large, so each is read once.
    Mixtures are never tied.
    """
    own = alive or {block: live_units(model, block).cpu() for block in anatomy.blocks}
    blocks: dict[Holder, Tensor] = {
        block: torch.stack([own[other] for other in anatomy.tied(block)]).any(0)
        for block in anatomy.blocks
        if block.obstacle is None
    }
    mixtures = [mixture for mixture in anatomy.mixtures if mixture.obstacle is None]
    return blocks | {mixture: live_units(model, mixture).cpu() for mixture in mixtures}
