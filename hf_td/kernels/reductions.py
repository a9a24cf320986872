"""Reads whole weights, as fast as their bytes come.

A temporary of the size of a large weight costs far more than the arithmetic on it, since its memory
is fresh. So on the CPU a weight is read in pieces whose temporaries stay in the cache, or by numpy,
which needs none for what bits tell, and gathers several times as fast as torch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

# Integers of as many bytes as a floating-point number has.
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Numbers in a piece.
_PIECE = 1 << 18


def sum_of_squares(weight: Tensor, dim: int) -> Tensor:
    """Sum of squares along `dim`, in float32 or wider; that dimension is gone."""
    return _reduce(weight, dim, lambda part: _squares(part).sum(dim), torch.sum)


def row_norms(weight: Tensor, dim: int) -> Tensor:
    """Return the L2 norm along `dim`, in float32 or wider, without that dimension."""
    return sum_of_squares(weight, dim).sqrt()


def any_nonzero(weight: Tensor, dim: int) -> Tensor:
    """Whether anything along `dim` is not zero, boolean; that dimension is gone."""
    bits = _bits(weight)
    if bits is None:
        return weight.abs().amax(dim) != 0
    # All but the sign, which a zero may have too.
    magnitude = np.iinfo(bits.dtype).max
    return torch.from_numpy(np.bitwise_or.reduce(bits, axis=dim) & magnitude != 0)


def select(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    """As `tensor.index_select(dim, index)`."""
    bits = _bits(tensor)
    if bits is None:
        return tensor.index_select(dim, index)
    chosen = np.take(bits, index.numpy(), axis=dim)
    return torch.from_numpy(chosen).view(tensor.dtype)


def _bits(tensor: Tensor) -> np.ndarray | None:
    """A number's bits as a signed integer, on the CPU and where numpy has one of as many."""
    integer = INTEGERS.get(tensor.element_size())
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.is_floating_point()
    if integer is None or not plain or tensor.device.type != "cpu":
        return None
    return tensor.detach().view(integer).numpy()


def count_nonzero(tensor: Tensor) -> int:
    """How many numbers are not zero."""
    if tensor.device.type != "cpu":
        return int(tensor.count_nonzero())
    return sum(_count(part) for part in _pieces(tensor))


def _count(part: Tensor) -> int:
    bits = _bits(part)
    if bits is None:
        return int(np.count_nonzero(part.bool().numpy()))
    return int(np.count_nonzero(bits + bits))  # which drops the sign, that a zero may have too


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


def _squares(tensor: Tensor) -> Tensor:
    """In float32 or wider; of what has to be converted anyway there is one temporary, not two."""
    if tensor.dtype in (torch.float32, torch.float64):
        return tensor.square()
    return tensor.float().square_()
