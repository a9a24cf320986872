"""Which units of a model are still alive, and which are kept when the others are taken out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hf_td.anatomy import Anatomy, Block
from hf_td.importance import fan_in_dim


def live_units(model: nn.Module, block: Block) -> Tensor:
    """Boolean `(units,)`: whether the consumer reads anything of the unit.

    Only zero columns of the consumer make a unit dead. A head whose query or key is zero still
    averages its values, and a neuron whose weights are zero still passes its bias on.
    """
    layer = model.get_submodule(block.consumer.module)
    weight = layer.weight
    assert isinstance(weight, Tensor)
    columns = weight.detach().movedim(fan_in_dim(layer), 0)
    read = (columns != 0).flatten(1).any(1)
    return read[block.consumer.features.to(read.device)].any(1).cpu()


def kept_units(model: nn.Module, anatomy: Anatomy, multiple_of: int) -> dict[Block, Tensor]:
    """For each block, the sorted indices of the units that stay.

    Dead units stay where a block would have none left, where the width of a feed-forward part is
    rounded up to `multiple_of`, and where tied blocks have different dead units.
    """
    live = {block: live_units(model, block) for block in anatomy.blocks}
    return {
        block: _indices(
            torch.stack([live[other] for other in anatomy.tied(block)]).any(0),
            multiple_of if block.part == "feed_forward" else 1,
        )
        for block in anatomy.blocks
        if block.obstacle is None
    }


def _indices(live: Tensor, multiple_of: int) -> Tensor:
    wanted = max(1, -(-int(live.sum()) // multiple_of)) * multiple_of
    wanted = min(wanted, len(live))
    # Live units first, then the first dead ones.
    order = (~live).long().argsort(stable=True)
    return order[:wanted].sort().values
