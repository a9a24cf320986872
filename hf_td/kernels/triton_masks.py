"""The Triton kernel of `hf_td.kernels.cuda`; importing this file imports Triton."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hf_td import functional

_TYPES: dict[torch.dtype, Any] = {
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}
# Units of a program where neighbours in memory belong to different units (`Conv1D`): together they
# make up a whole read of 32 bytes.
_UNITS_SIDE_BY_SIDE = 8


def write_masks(
    pointers: Tensor,
    keys: Tensor | None,
    scales: Tensor | None,
    keeps: Tensor,
    *,
    weight: Tensor,
    dim: int,
    count: int,
    drop_rate: float,
) -> None:
    """Write the masks of weights of one shape in one launch.

    Args:
        pointers: where the weights lie, `(weights,)`, int64.
        keys: of the draws of each weight, `(weights,)`, int64; None where every candidate goes.
        scales: what magnitudes are multiplied with, `(weights, fan_in)`, float32, or None.
        keeps: what is written, `(weights, *weight.shape)`, boolean, contiguous.
        weight: one of the weights, of which shape, strides and type are taken.
        dim: the dimension of a weight that runs over the inputs.
        count: how many entries of an output unit are candidates, more than 0.
        drop_rate: the probability that a candidate is dropped.
    """
    units, fan_in = weight.shape[1 - dim], weight.shape[dim]
    together = 1 if dim == 1 else _UNITS_SIDE_BY_SIDE
    width = triton.next_power_of_2(fan_in)
    kernel: Any = _masks
    kernel[(triton.cdiv(units, together), len(pointers))](
        pointers,
        pointers if keys is None else keys,
        pointers if scales is None else scales,
        keeps.view(torch.int8),
        count,
        functional.drop_threshold(drop_rate),
        units,
        fan_in,
        weight.stride(1 - dim),
        weight.stride(dim),
        keeps.stride(2 - dim),
        keeps.stride(1 + dim),
        TYPE=_TYPES[weight.dtype],
        SCALED=scales is not None,
        DRAWN=keys is not None,
        UNITS=together,
        WIDTH=width,
        num_warps=min(16, max(1, together * width // 512)),
    )


# What changes from update to update must not compile the kernel anew.
@triton.jit(do_not_specialize=["count", "threshold"])
def _masks(
    pointers,
    keys,
    scales,
    keeps,
    count,
    threshold,
    units,
    fan_in,
    stride_unit,
    stride_in,
    keep_stride_unit,
    keep_stride_in,
    TYPE: tl.constexpr,
    SCALED: tl.constexpr,
    DRAWN: tl.constexpr,
    UNITS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Rank the rows of some output units of one weight, and write what is kept of them."""
    layer = tl.program_id(1).to(tl.int64)
    unit = (tl.program_id(0) * UNITS + tl.arange(0, UNITS))[:, None].to(tl.int64)
    feature = tl.arange(0, WIDTH)[None, :]
    inside = (unit < units) & (feature < fan_in)

    weight = tl.load(pointers + layer).to(tl.pointer_type(TYPE))  # pyright: ignore[reportArgumentType]  # a constexpr is its value here
    place = unit * stride_unit + feature * stride_in
    score = tl.abs(tl.load(weight + place, mask=inside, other=0.0).to(tl.float32))
    if SCALED:
        known = feature < fan_in
        score *= tl.load(scales + layer * fan_in + feature, mask=known, other=0.0)
    # Padding is above every number.
    bits = tl.where(inside, score.to(tl.int32, bitcast=True), 0x7FFFFFFF)

    # The largest number that at most `count` are below is the first that is no candidate.
    limit = tl.zeros([UNITS, 1], tl.int32)
    for step in range(31):
        trial = limit | (1 << (30 - step))
        below = tl.sum((bits < trial).to(tl.int32), axis=1, keep_dims=True)
        limit = tl.where(below <= count, trial, limit)
    dropped = bits < limit

    position = unit * keep_stride_unit + feature * keep_stride_in
    if DRAWN:
        word = tl.randint(tl.load(keys + layer), position.to(tl.int32))
        dropped = dropped & ((word & 0xFFFF).to(tl.int32) < threshold)
    start = keeps + layer * units * fan_in
    tl.store(start + position, (dropped == 0).to(tl.int8), mask=inside)
