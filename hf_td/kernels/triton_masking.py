"""The Triton kernel of `hf_td.kernels.cuda.write_masked`; importing this file imports Triton."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from hf_td.functional import DRAW_LEVELS, MULTIPLIERS, Cut
from hf_td.kernels.triton_types import TYPES

# The entries of a program, and its warps.
_BLOCK = 1024
_WARPS = 4
_LEVELS = tl.constexpr(DRAW_LEVELS)
_FIRST = tl.constexpr(MULTIPLIERS[0])
_SECOND = tl.constexpr(MULTIPLIERS[1])


def write_masked(
    source: Tensor,
    weight: Tensor,
    cut: Cut,
    scale_strides: Sequence[int],
    out: Tensor,
) -> None:
    """Write a matrix, or a stack of matrices, with zeros at dropped entries.

    Args:
        source: the weight or its gradient, contiguous, in the shape of `weight`.
        weight: `(rows, columns)` or `(experts, rows, columns)`, contiguous; the mask is computed
            from it.
        cut: the numbers of the update.
        scale_strides: strides of the scale along rows and columns; 0 where it broadcasts.
        out: output, in the shape of `source`, contiguous; may be `source` itself.
    """
    *stack, rows, columns = weight.shape
    cutoff_strides = cut.cutoff.expand(weight.shape).stride()
    kernel: Any = _masked
    kernel[(triton.cdiv(weight.numel(), _BLOCK),)](
        source,
        weight,
        cut.cutoff,
        cut.draw,
        cut.cutoff if cut.scale is None else cut.scale,
        out,
        weight.numel(),
        rows,
        columns,
        *(cutoff_strides if stack else (0, *cutoff_strides)),
        *scale_strides,
        OUT=TYPES[out.dtype],
        SCALED=cut.scale is not None,
        BLOCK=_BLOCK,
        num_warps=_WARPS,
    )


@triton.jit
def _masked(
    source,
    weight,
    cutoff,
    draw,
    scale,
    out,
    size,
    rows,
    columns,
    cutoff_expert,
    cutoff_row,
    cutoff_column,
    scale_row,
    scale_column,
    OUT: tl.constexpr,
    SCALED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write a block of entries, with zeros at dropped ones even if the source is not finite."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    line = place // columns
    column = place - line * columns
    expert = line // rows
    row = line - expert * rows
    score = tl.abs(tl.load(weight + place, mask=inside, other=0.0).to(tl.float32))
    if SCALED:
        at = row * scale_row + column * scale_column
        score *= tl.load(scale + at, mask=inside, other=0.0)
    at = expert * cutoff_expert + row * cutoff_row + column * cutoff_column
    limit = tl.load(cutoff + at, mask=inside, other=0.0)
    dropped = score < limit
    threshold = tl.load(draw + 2).to(tl.int32)
    if threshold < _LEVELS:
        dropped = dropped & (_draws(tl.load(draw), tl.load(draw + 1), place) < threshold)
    value = tl.load(source + place, mask=inside, other=0.0)
    tl.store(out + place, tl.where(dropped, 0.0, value).to(OUT), mask=inside)


@triton.jit
def _draws(low, high, place):
    """Return the draws of `functional.draws` at these positions."""
    words = (place >> 1).to(tl.uint32) ^ low.to(tl.int32).to(tl.uint32, bitcast=True)
    words = (words ^ (words >> 16)) * _FIRST
    words = ((words ^ (words >> 15)) + high.to(tl.int32).to(tl.uint32, bitcast=True)) * _SECOND
    words = words ^ (words >> 16)
    half = ((place & 1) * 16).to(tl.uint32)
    return ((words >> half) & 0xFFFF).to(tl.int32)
