"""The Triton kernel of `hf_td.kernels.cuda.cutoffs`; importing this file imports Triton."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hf_td.kernels.triton_types import TYPES

# The units of a program where neighbours in memory belong to different units (`Conv1D`). Together
# they fill one read of 32 bytes.
_UNITS_SIDE_BY_SIDE = 8
# The entries that a warp holds in its registers, by the number of units of its program.
_ENTRIES_PER_WARP = {1: 2048, _UNITS_SIDE_BY_SIDE: 1024}
# The distance between neighbouring magnitudes of a type, in units of the last bit of a float32.
_STEPS = {torch.float32: 1, torch.float16: 1 << 13, torch.bfloat16: 1 << 16}


def write_cutoffs(
    pointers: Tensor,
    scales: Tensor | None,
    before: Tensor,
    cutoffs: Tensor,
    *,
    weight: Tensor,
    dim: int,
    count: int,
    aligned: bool = False,
) -> None:
    """Write the cut-offs of weights of one shape in one launch.

    Args:
        pointers: addresses of the weights, `(weights,)`, int64.
        scales: addresses of the factors on magnitudes, `(weights,)`, int64, each of `(fan_in,)`,
            float32; or None.
        before: addresses of the cut-offs of the previous update, `(weights,)`, int64, each of
            `(units,)`, float32. They only speed up the search for new cut-offs nearby.
        cutoffs: output, `(weights, units)`, float32, contiguous.
        weight: one of the weights, for shape, strides and type.
        dim: the dimension of a weight that runs over the inputs.
        count: number of candidates in an output unit, more than 0.
        aligned: True where each row of each weight begins at a multiple of 16 bytes.
    """
    units, fan_in = weight.shape[1 - dim], weight.shape[dim]
    together = 1 if dim == 1 else _UNITS_SIDE_BY_SIDE
    width = triton.next_power_of_2(fan_in)
    # The cut-off of normally distributed weights, in multiples of the mean magnitude.
    usual = NormalDist().inv_cdf((1 + count / fan_in) / 2) * math.sqrt(math.pi / 2)
    kernel: Any = _cutoffs
    kernel[(triton.cdiv(units, together), len(pointers))](
        pointers,
        pointers if scales is None else scales,
        before,
        cutoffs.view(torch.int32),
        count,
        usual,
        units,
        fan_in,
        weight.stride(1 - dim),
        weight.stride(dim),
        TYPE=TYPES[weight.dtype],
        SCALED=scales is not None,
        STEP=_STEPS[weight.dtype] if scales is None else 1,
        ALIGNED=aligned,
        UNITS=together,
        WIDTH=width,
        num_warps=min(16, max(1, together * width // _ENTRIES_PER_WARP[together])),
    )


# Arguments that change from update to update must not recompile the kernel.
@triton.jit(do_not_specialize=["count", "usual"])
def _cutoffs(
    pointers,
    scales,
    before,
    cutoffs,
    count,
    usual,
    units,
    fan_in,
    stride_unit,
    stride_in,
    TYPE: tl.constexpr,
    SCALED: tl.constexpr,
    STEP: tl.constexpr,
    ALIGNED: tl.constexpr,
    UNITS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Write the cut-offs of some output units of one weight."""
    layer = tl.program_id(1).to(tl.int64)
    unit = (tl.program_id(0) * UNITS + tl.arange(0, UNITS))[:, None].to(tl.int64)
    feature = tl.arange(0, WIDTH)[None, :]
    inside = (unit < units) & (feature < fan_in)

    weight = tl.load(pointers + layer).to(tl.pointer_type(TYPE))  # pyright: ignore[reportArgumentType]  # a constexpr is its value here
    entry = weight + (unit * stride_unit + feature * stride_in)
    if ALIGNED:
        entry = tl.multiple_of(entry, [1, 16])
    score = tl.abs(tl.load(entry, mask=inside, other=0.0).to(tl.float32))
    if SCALED:
        scale = tl.load(scales + layer).to(tl.pointer_type(tl.float32))
        score *= tl.load(scale + feature, mask=feature < fan_in, other=0.0)

    # Bits have the order of magnitudes; padding is above every number.
    bits = tl.where(inside, score.to(tl.int32, bitcast=True), 0x7FFFFFFF)
    mean = tl.sum(score, axis=1, keep_dims=True) / fan_in
    highest = tl.max(tl.where(inside, bits, 0), axis=1, keep_dims=True)
    known = tl.load(before + layer).to(tl.pointer_type(tl.float32)) + unit
    last = tl.load(known, mask=unit < units, other=0.0)
    was_ranked = (last > 0) & (last < float("inf"))
    guess = tl.where(was_ranked, last, usual * mean)
    margin = tl.where(was_ranked, 0.005, 0.08)
    cutoff = _cutoff(bits, guess, margin, highest, fan_in, count, STEP)
    # NaN is above the cut-off, as infinity is.
    tl.store(cutoffs + layer * units + unit, tl.minimum(cutoff, 0x7F800000), mask=unit < units)


@triton.jit
def _cutoff(bits, guess, margin, highest, fan_in, count, STEP: tl.constexpr):
    """Return, for each row, a number with `count` entries below it; with ties fewer, never more.

    The search narrows an interval: at most `count` entries are below `low`, more are below `high`.
    Each round tries one number slightly below the expected cut-off and one slightly above, so both
    limits move. After 8 rounds, which only rough distributions need, the interval is cut into
    thirds until no entry lies inside. Rows of 2048 normally distributed weights take 4 rounds, or 3
    with a good guess; of bfloat16 3, or 2.
    """
    low = tl.zeros_like(highest)
    high = tl.minimum(highest, 0x7FFFFFFF - STEP) + STEP  # NaNs may be above it
    under_low = low
    under_high = low + fan_in
    # The first two trials. The later ones are this distance from the expected cut-off, in square
    # roots of the number of entries left.
    first = (guess * (1 - margin)).to(tl.int32, bitcast=True)
    second = (guess * (1 + margin)).to(tl.int32, bitcast=True)
    distance = 0.25

    rounds = 0
    while tl.max(((under_low < count) & (high - low > STEP)).to(tl.int32)) > 0:
        first = tl.minimum(tl.maximum(first & -STEP, low + STEP), high - STEP)
        second = tl.minimum(tl.maximum(second & -STEP, first), high - STEP)
        # Both counts in one sum, 16 bits each.
        counted = (bits < first).to(tl.int32) + ((bits < second).to(tl.int32) << 16)
        both = tl.sum(counted, axis=1, keep_dims=True)
        under_first, under_second = both & 0xFFFF, (both >> 16) & 0xFFFF
        fits_first, fits_second = under_first <= count, under_second <= count
        high, under_high = (
            tl.where(fits_first, tl.where(fits_second, high, second), first),
            tl.where(fits_first, tl.where(fits_second, under_high, under_second), under_first),
        )
        low, under_low = (
            tl.where(fits_second, second, tl.where(fits_first, first, low)),
            tl.where(fits_second, under_second, tl.where(fits_first, under_first, under_low)),
        )

        left = (under_high - under_low).to(tl.float32)
        share = (count - under_low + 0.5) / left
        offset = distance / tl.sqrt(left)
        floor = low.to(tl.float32, bitcast=True)
        room = (high - STEP).to(tl.float32, bitcast=True) - floor
        first = floor + room * tl.maximum(share - offset, 0.0)
        second = floor + room * tl.minimum(share + offset, 1.0)
        first, second = first.to(tl.int32, bitcast=True), second.to(tl.int32, bitcast=True)
        rounds += 1
        if rounds > 8:
            third = tl.maximum((high - low) // 3, STEP)
            first, second = low + third, high - third
    return low
