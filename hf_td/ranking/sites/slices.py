"""Parts of parameters that belong to chosen weights or units."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from hf_td import kernels
from hf_td.anatomy import Companion, Projection, features_on

# A parameter and a boolean mask that broadcasts to its shape.
Slice = tuple[Tensor, Tensor]


def clear(slices: Iterable[Slice]) -> None:
    """Set parts of parameters to zero, in place."""
    for parameter, mask in slices:
        kernels.clear(parameter.data, mask)
        increment_version(parameter)  # `kernels.clear` writes past autograd


def by_feature(mask: Tensor, slices: Projection | Companion, size: int) -> Tensor:
    """Return a mask over units as one over a parameter's features; zero at features of no unit.

    Args:
        mask: `(..., units)`.
        slices: the features of each unit.
        size: the number of features of the parameter.

    Returns:
        `(..., size)`, of the type of the mask.
    """
    found = torch.zeros(*mask.shape[:-1], size, dtype=mask.dtype, device=mask.device)
    found[..., features_on(slices, mask.device)] = mask.unsqueeze(-1)
    return found
