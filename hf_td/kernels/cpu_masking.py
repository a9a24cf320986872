"""Masks on the CPU: `functional.is_dropped` in blocks of rows that stay in the cache.

Booleans, and products with them, are slow. The sign of an integer difference is as good: no score
is negative, so the bits of scores have the order of scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hf_td import functional
from hf_td.functional import DRAW_LEVELS, Cut, Rule
from hf_td.kernels.reductions import INTEGERS

# Entries of a block: a megabyte of scores, shared by the threads of torch.
_BLOCK = 1 << 18
# The types of cut-offs, by the integers of as many bits.
_FLOATS = {torch.int32: torch.float32, torch.int64: torch.float64}


def can_mask(weight: Tensor, rule: Rule) -> bool:
    """Return True if `kept` supports a weight."""
    usual = rule.pattern is None and rule.random_key is None
    plain = type(weight) in (Tensor, nn.Parameter) and weight.device.type == "cpu"
    return usual and plain and weight.dim() in (2, 3)


def kept(weight: Tensor, cut: Cut, rule: Rule) -> Tensor:
    """Return -1 (all bits) where an update keeps an entry and 0 elsewhere.

    Args:
        weight: a weight that `can_mask` supports.
        cut: the numbers of the update.
        rule: the rule of the weight, without pattern and random key.

    Returns:
        int8, broadcasts to the weight.
    """
    threshold = int(cut.draw[2])
    if threshold == 0:
        return torch.full([1] * weight.dim(), -1, dtype=torch.int8)
    limits = _limits(cut.cutoff)
    by_input = limits.shape[rule.fan_in_dim] > 1  # infinite cut-offs, so scores do not matter
    if by_input and threshold == DRAW_LEVELS:
        return limits.bitwise_right_shift_(_sign_bit(limits)).to(torch.int8)
    limits, scale = limits.expand(weight.shape), _scale(cut, weight, rule)
    found = torch.empty(weight.shape, dtype=torch.int8)
    start = 0
    for block in _blocks(weight.shape):
        signs = limits[block]
        if not by_input:
            signs = _differences(signs, weight[block], None if scale is None else scale[block])
        if threshold < DRAW_LEVELS:
            signs = signs | _undrawn(signs.shape, cut.draw, start)
        found[block] = signs.bitwise_right_shift_(_sign_bit(signs))
        start += signs.numel()
    return found


def write_kept(source: Tensor, kept: Tensor, out: Tensor) -> None:
    """Write a tensor with zeros at dropped entries, even at those that are not finite.

    Args:
        source: floating point of 16 bits or more.
        kept: from `kept`, broadcasts to `source`.
        out: output, in the shape of `source`; may be `source` itself.
    """
    if source.dtype != out.dtype:
        source = out.copy_(source)
    bits = INTEGERS[out.element_size()]
    source, out = source.view(bits), out.view(bits)
    if kept.shape != source.shape:
        torch.bitwise_and(source, kept.to(bits), out=out)
        return
    for block in _blocks(source.shape):
        torch.bitwise_and(source[block], kept[block].to(bits), out=out[block])


def clear(tensor: Tensor, chosen: Tensor) -> None:
    """Set entries to zero, in place and outside of autograd.

    Args:
        tensor: any shape, floating point.
        chosen: boolean, broadcasts to `tensor`.
    """
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.device.type == "cpu"
    if not plain or tensor.element_size() not in INTEGERS:
        tensor.masked_fill_(chosen, 0)
        return
    bits = tensor.detach().view(INTEGERS[tensor.element_size()])
    if chosen.dim() == tensor.dim() and chosen.numel() == chosen.shape[0] == tensor.shape[0]:
        bits[chosen.flatten()] = 0
    else:
        bits.mul_(~chosen)


def _blocks(shape: torch.Size) -> Iterator[tuple[Any, ...]]:
    """Yield the indices of blocks of rows of a matrix, or of each matrix of a stack."""
    *stack, rows, columns = shape
    height = max(1, _BLOCK // max(1, columns))
    for matrix in [(number,) for number in range(stack[0])] if stack else [()]:
        for start in range(0, rows, height):
            yield *matrix, slice(start, start + height)


def _scale(cut: Cut, weight: Tensor, rule: Rule) -> Tensor | None:
    """Return the scale of the scores in the shape of the weight, without a copy; None for ones."""
    if cut.scale is None:
        return None
    shape = [1] * weight.dim()
    shape[rule.fan_in_dim] = -1
    return cut.scale.view(shape).expand(weight.shape)


def _limits(cutoff: Tensor) -> Tensor:
    """Return the bits of the highest score below each cut-off as an integer, -1 for none."""
    wide = cutoff.to(torch.promote_types(cutoff.dtype, torch.float32))
    wide = wide.masked_fill(wide.isnan(), -torch.inf)  # no score is below NaN
    return wide.view(INTEGERS[wide.element_size()]).clamp(min=0) - 1


def _differences(limits: Tensor, weight: Tensor, scale: Tensor | None) -> Tensor:
    """Return integers that are negative where an entry of a block is no candidate.

    They take the place of the scores: memory that is fresh is slower than the arithmetic.
    """
    scores = weight.detach().abs()
    if scale is not None:
        scores = scores.mul_(scale) if scores.dtype == scale.dtype else scores * scale
    bits = scores.to(_FLOATS[limits.dtype]).view(limits.dtype)
    return torch.sub(limits, bits, out=bits)


def _undrawn(shape: torch.Size, draw: Tensor, start: int) -> Tensor:
    """Return integers that are negative where an entry of a block is not drawn."""
    drawn = functional.draws(shape, draw, start)
    return torch.sub(draw[2] - 1, drawn, out=drawn)


def _sign_bit(integers: Tensor) -> int:
    """Return the number of the bit of the sign; to shift by it copies the sign to all bits."""
    return 8 * integers.element_size() - 1
