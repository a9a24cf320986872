"""Reductions of whole weights at the speed of memory.

The fresh memory of a large temporary is far slower than the arithmetic on it. So on the CPU a
weight is read in pieces whose temporaries stay in the cache. Where the bits suffice, numpy reads
them without temporaries. It also gathers several times as fast as torch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

# The integer type with the same number of bytes as a floating-point number.
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# The numbers in a piece.
_PIECE = 1 << 18


def sum_of_squares(weight: Tensor, dim: int) -> Tensor:
    """Return the sum of squares along `dim`, in float32 or wider, without that dimension."""
    parts = [_squares(part).sum(dim) for part in _pieces(weight)]
    if len(parts) == 1:
        return parts[0]
    return torch.stack(parts).sum(0) if dim == 0 else torch.cat(parts)


def row_norms(weight: Tensor, dim: int) -> Tensor:
    """Return the L2 norm along `dim`, in float32 or wider, without that dimension."""
    return sum_of_squares(weight, dim).sqrt()


def any_nonzero(weight: Tensor, dim: int) -> Tensor:
    """Return True where any number along `dim` is not zero, without that dimension."""
    bits = _bits(weight)
    if bits is None:
        return weight.abs().amax(dim) != 0
    # All bits but the sign, which may be set in a zero.
    magnitude = np.iinfo(bits.dtype).max
    return torch.from_numpy(np.bitwise_or.reduce(bits, axis=dim) & magnitude != 0)


def select(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    """Return `tensor.index_select(dim, index)`."""
    bits = _bits(tensor)
    if bits is None:
        return tensor.index_select(dim, index)
    chosen = np.take(bits, index.numpy(), axis=dim)
    return torch.from_numpy(chosen).view(tensor.dtype)


def _bits(tensor: Tensor) -> np.ndarray | None:
    """Return the bits of a floating-point tensor on the CPU as signed integers; else None."""
    integer = INTEGERS.get(tensor.element_size())
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.is_floating_point()
    if integer is None or not plain or tensor.device.type != "cpu":
        return None
    return tensor.detach().view(integer).numpy()


def count_nonzero(tensor: Tensor) -> int:
    """Return the number of entries that are not zero."""
    if tensor.device.type != "cpu":
        return int(tensor.count_nonzero())
    return sum(_count(part) for part in _pieces(tensor))


def _count(part: Tensor) -> int:
    bits = _bits(part)
    if bits is None:
        return int(np.count_nonzero(part.bool().numpy()))
    return int(np.count_nonzero(bits + bits))  # doubling shifts out the sign, which may be a zero's


def _pieces(tensor: Tensor) -> tuple[Tensor, ...]:
    """Return pieces of the tensor along its first dimension; one piece if small or on a GPU."""
    if tensor.device.type != "cpu" or tensor.numel() <= _PIECE:
        return (tensor,)
    return tensor.split(max(1, _PIECE * tensor.shape[0] // tensor.numel()))


def _squares(tensor: Tensor) -> Tensor:
    """Return the squares in float32 or wider."""
    if tensor.dtype in (torch.float32, torch.float64):
        return tensor.square()
    return tensor.float().square_()  # in place on the converted copy
