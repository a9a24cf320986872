"""Reads whole weights piece by piece.

A temporary of the size of a large weight costs far more than the arithmetic on it, since its memory
is fresh. So on the CPU a weight is read in pieces whose temporaries stay in the cache.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# Numbers in a piece.
_PIECE = 1 << 18


def sum_of_squares(weight: Tensor, dim: int) -> Tensor:
    """Sum of squares along `dim`, in float32 or wider; that dimension is gone."""
    return _reduce(weight, dim, lambda part: _wide(part).square().sum(dim), torch.sum)


def any_nonzero(weight: Tensor, dim: int) -> Tensor:
    """Whether anything along `dim` is not zero, boolean; that dimension is gone."""
    return _reduce(weight, dim, lambda part: part.abs().amax(dim), torch.amax) != 0


def count_nonzero(tensor: Tensor) -> int:
    """How many numbers are not zero."""
    if tensor.device.type != "cpu":
        return int(tensor.count_nonzero())
    return sum(int(np.count_nonzero(part.bool().numpy())) for part in _pieces(tensor))


def _reduce(
    tensor: Tensor,
    dim: int,
    reduce: Callable[[Tensor], Tensor],
    combine: Callable[..., Tensor],
) -> Tensor:
    """What `reduce` gives along `dim` of each piece; pieces that were cut along it are combined."""
    parts = [reduce(part) for part in _pieces(tensor)]
    if len(parts) == 1:
        return parts[0]
    return combine(torch.stack(parts), dim=0) if dim == 0 else torch.cat(parts)


def _pieces(tensor: Tensor) -> tuple[Tensor, ...]:
    """The tensor cut along its first dimension; in one piece where that is no gain."""
    if tensor.device.type != "cpu" or tensor.numel() <= _PIECE:
        return (tensor,)
    return tensor.split(max(1, _PIECE * tensor.shape[0] // tensor.numel()))


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
