"""Targeted dropout on plain tensors (Gomez et al., arXiv 1905.13678, section 4).

Scores say how important something is, `candidate_mask` picks the least important fraction,
`keep_mask` drops each candidate with some probability, and `masked` applies the result to a
weight with the gradient that the paper prescribes: none for what was dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from hf_td.kernels.reductions import count_nonzero, sum_of_squares

# Drops are decided on 16-bit integers, four of which come out of one 64-bit draw.
_DRAW_LEVELS = 1 << 16
_DRAWS_PER_WORD = 4


def weight_scores(weight: Tensor, scale: Tensor | None, fan_in_dim: int) -> Tensor:
    """Magnitudes of weights, of the shape of the weight; ranked along `fan_in_dim`.

    Args:
        weight: `(out, in)`, `(in, out)`, or with leading dimensions.
        scale: what the weights of each input are multiplied with, `(fan_in,)`; None for ones.
        fan_in_dim: the dimension of the weight that runs over the inputs.
    """
    magnitude = weight.detach().abs()
    if scale is None:
        return magnitude
    shape = [1] * weight.dim()
    shape[fan_in_dim] = -1
    return magnitude * scale.view(shape)


def candidate_count(total: int, fraction: float) -> int:
    """Number of candidates among `total`: `floor(fraction * total)`, safe against rounding.

    `int(0.29 * 100)` is 28 in floating point; the small epsilon makes it 29.
    """
    return min(total, int(fraction * total + 1e-6))


def candidate_mask(
    scores: Tensor, fraction: float, dim: int = -1, *, break_ties: bool = False
) -> Tensor:
    """True for the `floor(fraction * n)` lowest scores along `dim`.

    Args:
        scores: any shape, with `n` entries along `dim`.
        fraction: the targeting (gamma) or the sparsity, in [0, 1].
        dim: the dimension that is ranked; every slice along it is ranked by itself.
        break_ties: scores equal to the cut-off are taken in order of position until the count is
            exact. Without it they are left out, as in the authors' code: cheaper, and the same
            wherever scores differ.

    Returns:
        A boolean tensor of the shape of `scores`.
    """
    count = candidate_count(scores.shape[dim], fraction)
    if count in (0, scores.shape[dim]):
        return torch.full_like(scores, count > 0, dtype=torch.bool)
    limit = cutoff(scores, count, dim)
    below = scores < limit
    slices = below.numel() // below.shape[dim]
    if not break_ties or count_nonzero(below) == count * slices:
        return below
    return below | _first_ties(scores == limit, below, count, dim)


def cutoff(scores: Tensor, count: int, dim: int = -1) -> Tensor:
    """The first score that is no candidate when `count` are; keeps `dim` with size 1."""
    if scores.device.type == "cpu" and scores.dtype in (torch.float32, torch.float64):
        # numpy selects with vector instructions: more than ten times as fast as kthvalue.
        ranked = np.partition(scores.detach().numpy(), count, axis=dim)
        return torch.from_numpy(ranked).select(dim, count).unsqueeze(dim)
    # kthvalue counts from one.
    return scores.kthvalue(count + 1, dim=dim, keepdim=True).values


def _first_ties(ties: Tensor, below: Tensor, count: int, dim: int) -> Tensor:
    missing = count - below.sum(dim, keepdim=True)
    return ties & (ties.cumsum(dim) <= missing)


def lowest_neighbours(scores: Tensor, lowest: int, of: int, dim: int = -1) -> Tensor:
    """True for the `lowest` lowest scores in each group of `of` neighbours along `dim`.

    Of equal scores the first go. Every group has exactly `lowest`, as the sparse kernels of GPUs
    expect (2:4).

    Args:
        scores: any shape, with a multiple of `of` entries along `dim`.
        lowest: how many of each group, in [0, of].
        of: the size of a group.
        dim: the dimension along which entries are neighbours.

    Returns:
        A boolean tensor of the shape of `scores`.
    """
    # One tensor for each place in a group: comparing these pair by pair needs no sort.
    places = scores.movedim(dim, -1).unflatten(-1, (-1, of)).unbind(-1)
    ranks = [torch.zeros_like(place, dtype=torch.int16) for place in places]
    for first, second in combinations(range(of), 2):
        is_lower = places[second] < places[first]
        ranks[first] += is_lower
        ranks[second] += ~is_lower
    chosen = torch.stack([rank < lowest for rank in ranks], -1)
    return chosen.flatten(-2).movedim(-1, dim)


def has_zero_neighbours(weight: Tensor, lowest: int, of: int, dim: int = -1) -> bool:
    """Whether each group of `of` neighbours along `dim` has at least `lowest` zeros."""
    if weight.shape[dim] % of:
        return False
    groups = (weight == 0).movedim(dim, -1).unflatten(-1, (-1, of))
    return bool((groups.sum(-1) >= lowest).all())


def row_norms(weight: Tensor, fan_in_dim: int) -> Tensor:
    """L2 norm of each output unit's weights: `(units_out,)`, in float32 or wider."""
    return sum_of_squares(weight, fan_in_dim).sqrt()


def unit_norms(members: Sequence[Tensor]) -> Tensor:
    """L2 norm of each unit over everything that produces it (paper, section 4.1).

    Args:
        members: norms of the rows that belong to each unit, tensors `(..., units, per_unit)`.

    Returns:
        Scores of shape `(..., units)`.
    """
    return torch.stack([m.square().sum(-1) for m in members]).sum(0).sqrt()


def generator(device: torch.device, key: int) -> torch.Generator:
    """A generator whose draws are a function of `key`, a signed 64-bit integer."""
    return torch.Generator(device).manual_seed(key)


def drop_threshold(drop_rate: float) -> int:
    """How many of the 2**16 values of a draw mean that a candidate is dropped."""
    return round(drop_rate * _DRAW_LEVELS)


def random_drop(
    shape: torch.Size, drop_rate: float, generator: torch.Generator, device: torch.device
) -> Tensor:
    """Independent draws that are True with probability `drop_rate`, to 16 bits of resolution.

    The rates 0 and 1 are exact: never and always.
    """
    threshold = drop_threshold(drop_rate)
    if threshold in (0, _DRAW_LEVELS):
        return torch.full(shape, threshold > 0, dtype=torch.bool, device=device)
    return random_draws(shape, generator, device) < threshold - _DRAW_LEVELS // 2


def random_draws(shape: torch.Size, generator: torch.Generator, device: torch.device) -> Tensor:
    """Independent integers of 16 bits, any of which is as likely as the others."""
    words = torch.empty(-(-shape.numel() // _DRAWS_PER_WORD), dtype=torch.int64, device=device)
    words.random_(-(1 << 63), None, generator=generator)
    return words.view(torch.int16)[: shape.numel()].view(shape)


def keep_mask(
    candidates: Tensor, drop_rate: float, generator: torch.Generator, *, rescale: bool = False
) -> Tensor:
    """What multiplies the weights in this update: 0 where a candidate is dropped, else 1.

    Args:
        candidates: boolean, any shape.
        drop_rate: alpha, the probability that a candidate is dropped, in [0, 1].
        generator: on the device of `candidates`; its state decides the draw.
        rescale: scale the surviving candidates by `1 / (1 - drop_rate)`, as the authors' second
            release does; the paper does not.

    Returns:
        Boolean, or float32 with `rescale`, of the shape of `candidates`.
    """
    drawn = random_drop(candidates.shape, drop_rate, generator, candidates.device)
    keep = ~(drawn & candidates)
    if not rescale or drop_rate >= 1:
        return keep.float() if rescale else keep
    return torch.where(candidates, keep / (1 - drop_rate), keep)


class _Masked(torch.autograd.Function):
    """`weight * keep` in the type of the weight, and the same for its gradient."""

    @staticmethod
    def forward(ctx, weight: Tensor, keep: Tensor) -> Tensor:
        ctx.save_for_backward(keep)
        return (weight * keep).to(weight.dtype)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None]:
        (keep,) = ctx.saved_tensors
        return (grads[0] * keep).to(grads[0].dtype), None


def masked(weight: Tensor, keep: Tensor) -> Tensor:
    """The weight as this update sees it; dropped entries are zero and get no gradient.

    Args:
        weight: any shape, floating point.
        keep: from `keep_mask`, broadcastable to `weight`.
    """
    return _Masked.apply(weight, keep)
