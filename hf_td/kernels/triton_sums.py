"""The Triton kernel of `hf_td.kernels.cuda.sums_of_squares`; importing this file imports Triton."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from hf_td.kernels.triton_types import TYPES

# The output units and inputs that a program reads at once, by the dimension that runs over the
# inputs. Neighbours in memory are read together.
_TILES = {0: (64, 32), 1: (4, 512)}


def write_sums(pointers: Tensor, sums: Tensor, *, weight: Tensor, dim: int, aligned: bool) -> None:
    """Write the sums of squares of each output unit, of weights of one shape, in one launch.

    Args:
        pointers: addresses of the weights, `(weights,)`, int64.
        sums: output, `(weights, units)`, float32, contiguous.
        weight: one of the weights, for shape, strides and type.
        dim: the dimension of a weight that runs over the inputs.
        aligned: True where each row of each weight begins at a multiple of 16 bytes.
    """
    units, fan_in = weight.shape[1 - dim], weight.shape[dim]
    together, width = _TILES[dim]
    kernel: Any = _sums
    kernel[(triton.cdiv(units, together), len(pointers))](
        pointers,
        sums,
        units,
        fan_in,
        weight.stride(1 - dim),
        weight.stride(dim),
        TYPE=TYPES[weight.dtype],
        ALIGNED=aligned,
        UNITS=together,
        WIDTH=width,
    )


@triton.jit
def _sums(
    pointers,
    sums,
    units,
    fan_in,
    stride_unit,
    stride_in,
    TYPE: tl.constexpr,
    ALIGNED: tl.constexpr,
    UNITS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Write the sums of squares of some output units of one weight."""
    layer = tl.program_id(1).to(tl.int64)
    unit = (tl.program_id(0) * UNITS + tl.arange(0, UNITS)).to(tl.int64)
    weight = tl.load(pointers + layer).to(tl.pointer_type(TYPE))  # pyright: ignore[reportArgumentType]  # a constexpr is its value here
    total = tl.zeros([UNITS, WIDTH], tl.float32)
    for start in range(0, fan_in, WIDTH):
        feature = start + tl.arange(0, WIDTH)
        entry = weight + (unit[:, None] * stride_unit + feature[None, :] * stride_in)
        if ALIGNED:
            entry = tl.multiple_of(entry, [1, 16])
        inside = (unit[:, None] < units) & (feature[None, :] < fan_in)
        value = tl.load(entry, mask=inside, other=0.0).to(tl.float32)
        total += value * value
    tl.store(sums + layer * units + unit, tl.sum(total, axis=1), mask=unit < units)
