"""Parts of parameters that belong to chosen weights or units."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from hf_td import kernels
from hf_td.anatomy import Companion, Projection, features_on

# A parameter, and a boolean mask of some of it, broadcastable to its shape.
Slice = tuple[Tensor, Tensor]


def clear(slices: Iterable[Slice]) -> None:
    """Set these parts of parameters to zero."""
    for parameter, mask in slices:
        kernels.clear(parameter.data, mask)
        increment_version(parameter)  # for those who remember what they made of it


def by_feature(mask: Tensor, slices: Projection | Companion, size: int) -> Tensor:
    """A mask over units as one over the features of a parameter, zero for what is not of them.

    Args:
        mask: `(..., units)`.
        slices: whose features belong to the units.
        size: the number of all features of its parameter.

    Returns:
        `(..., size)`, of the type of the mask.
    """
    spread = torch.zeros(*mask.shape[:-1], size, dtype=mask.dtype, device=mask.device)
    spread[..., features_on(slices, mask.device)] = mask.unsqueeze(-1)
    return spread
