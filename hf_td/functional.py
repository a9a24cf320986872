"""Targeted dropout on plain tensors (Gomez et al., arXiv 1905.13678, section 4).

An update is its cut-offs. A score says how important a weight is. The lowest-scored fraction of
each row are candidates, so one number per row, its cut-off, tells candidates from the rest. The
mask of a weight follows from the weight, its cut-offs and a key. It is computed where it is needed
and never stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

# Draws are integers of 16 bits; a draw below the threshold of an update drops its candidate.
DRAW_LEVELS = 1 << 16

# The multipliers of `lowbias32`, a mixing function of 32 bits by Chris Wellons.
MULTIPLIERS = (0x7FEB352D, 0x846CA68B)


class Rule(NamedTuple):
    """What the scores of a weight are, in every update.

    Attributes:
        fan_in_dim: the dimension of the weight that runs over the inputs; scores are ranked along
            it.
        pattern: (lowest, of): only so many of each group of neighbours can be candidates.
        random_key: scores are a function of this key and the position, in place of magnitudes.
    """

    fan_in_dim: int
    pattern: tuple[int, int] | None = None
    random_key: int | None = None


class Cut(NamedTuple):
    """What one update drops of one weight.

    Attributes:
        cutoff: scores below it are candidates; broadcastable to the weight. Minus infinity makes
            none of a row candidates, infinity all.
        draw: `(3,)`, int64: the low and the high half of the key, and the threshold. A candidate is
            dropped where its draw is below the threshold: 0 drops none, `DRAW_LEVELS` all.
        scale: what the magnitudes of each input are multiplied with, `(fan_in,)`; None for ones.
    """

    cutoff: Tensor
    draw: Tensor
    scale: Tensor | None = None


def masked(weight: Tensor, cut: Cut, rule: Rule) -> Tensor:
    """Return the weight as an update sees it: what is dropped is zero and gets no gradient.

    No gradient flows through the mask, and kept weights are not rescaled (paper, section 4).

    Args:
        weight: any shape, floating point.
        cut: of the update.
        rule: of the weight.
    """
    return weight.masked_fill(is_dropped(weight, cut, rule), 0)


def is_dropped(weight: Tensor, cut: Cut, rule: Rule) -> Tensor:
    """Return True where an update drops an entry, boolean, of the shape of the weight."""
    candidates = weight_scores(weight, cut.scale, rule) < cut.cutoff
    return candidates & is_drawn(weight.shape, cut.draw)


def weight_scores(weight: Tensor, scale: Tensor | None, rule: Rule) -> Tensor:
    """Return the scores of weights, not negative, of the shape of the weight.

    A score is the magnitude times the scale of the input, or a fixed random number. It is infinite
    where the pattern allows no candidate.

    Args:
        weight: `(out, in)`, `(in, out)`, or with leading dimensions.
        scale: `(fan_in,)`; None for ones.
        rule: of the weight.
    """
    if rule.random_key is not None:
        scores = random_scores(weight.shape, rule.random_key, weight.device)
    else:
        scores = weight.detach().abs()
        if scale is not None:
            shape = [1] * weight.dim()
            shape[rule.fan_in_dim] = -1
            scores = scores * scale.view(shape)
    if rule.pattern is None:
        return scores
    allowed = lowest_neighbours(scores, *rule.pattern, rule.fan_in_dim)
    return scores.masked_fill(~allowed, torch.inf)


def candidate_count(total: int, fraction: float) -> int:
    """Return the number of candidates among `total`: `floor(fraction * total)`.

    It is safe against rounding: `int(0.29 * 100)` is 28 in floating point, and the small epsilon
    makes it 29.
    """
    return min(total, int(fraction * total + 1e-6))


def kth_lowest(scores: Tensor, count: int, dim: int) -> Tensor:
    """Return the score that `count` others precede, counted from 0; keeps `dim` with size 1."""
    return scores.kthvalue(count + 1, dim=dim, keepdim=True).values


# Selects the score that so many others precede, along a dimension, as `kth_lowest` does.
Select = Callable[[Tensor, int, int], Tensor]


def cutoffs(scores: Tensor, fraction: float, dim: int = -1, select: Select = kth_lowest) -> Tensor:
    """Return the cut-offs at which `floor(fraction * n)` of the `n` scores along `dim` end.

    Args:
        scores: any shape.
        fraction: the targeting (gamma) or the sparsity, in [0, 1].
        dim: the dimension that is ranked; each slice along it is ranked by itself.
        select: finds the cut-off of a count.

    Returns:
        The scores at the cut-offs, with size 1 along `dim`. Scores strictly below are candidates,
        as in the authors' code; scores equal to the cut-off are none.
    """
    total = scores.shape[dim]
    count = candidate_count(total, fraction)
    if 0 < count < total:
        return select(scores, count, dim)
    nothing = scores.narrow(dim, 0, 1) if total else scores.sum(dim, keepdim=True)
    return torch.full_like(nothing, torch.inf if count else -torch.inf)


def candidate_mask(
    scores: Tensor,
    fraction: float,
    dim: int = -1,
    *,
    break_ties: bool = False,
    select: Select = kth_lowest,
) -> Tensor:
    """Return True for the `floor(fraction * n)` lowest scores along `dim`.

    Args:
        scores: any shape, with `n` entries along `dim`.
        fraction: the targeting (gamma) or the sparsity, in [0, 1].
        dim: the dimension that is ranked; each slice along it is ranked by itself.
        break_ties: scores equal to the cut-off are taken in order of position until the count is
            exact. Without it they are left out, as in the authors' code.
        select: finds the cut-off of a count.

    Returns:
        A boolean tensor of the shape of `scores`.
    """
    count = candidate_count(scores.shape[dim], fraction)
    limit = cutoffs(scores, fraction, dim, select)
    if not limit.isfinite().any() and count in (0, scores.shape[dim]):
        return torch.full_like(scores, count > 0, dtype=torch.bool)
    below = scores < limit
    if not break_ties:
        return below
    missing = count - below.sum(dim, keepdim=True)
    if not missing.any():
        return below
    ties = scores == limit
    return below | (ties & (ties.cumsum(dim) <= missing))


def lowest_neighbours(scores: Tensor, lowest: int, of: int, dim: int = -1) -> Tensor:
    """Return True for the `lowest` lowest scores in each group of `of` neighbours along `dim`.

    Of equal scores the first are taken. Every group has exactly `lowest`, as the sparse kernels of
    GPUs expect (2:4).

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


def unit_norms(members: Sequence[Tensor]) -> Tensor:
    """Return the L2 norm of each unit over everything that produces it (paper, section 4.1).

    Args:
        members: norms of the rows that belong to each unit, tensors `(..., units, per_unit)`.

    Returns:
        Scores of shape `(..., units)`.
    """
    return torch.stack([m.square().sum(-1) for m in members]).sum(0).sqrt()


def drop_threshold(drop_rate: float) -> int:
    """Return how many of the `DRAW_LEVELS` values of a draw drop a candidate."""
    return round(drop_rate * DRAW_LEVELS)


def draw_key(*parts: int) -> int:
    """Return a key, 64 mixed bits that are a function of some numbers."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def draw_of(key: int, threshold: int) -> list[int]:
    """Return the three numbers of `Cut.draw`.

    Args:
        key: from `draw_key`.
        threshold: as `drop_threshold` gives it.
    """
    return [_signed(key), _signed(key >> 32), threshold]


def is_drawn(shape: Sequence[int], draw: Tensor) -> Tensor:
    """Return True where the draw of an entry is below the threshold, boolean, of this shape."""
    return draws(shape, draw) < draw[2]


def draws(shape: Sequence[int], draw: Tensor) -> Tensor:
    """Return an integer in [0, 2**16) for each entry, a function of (key, position) alone.

    Two neighbours share a mixed word of 32 bits. Draws are equal on all devices.

    Args:
        shape: of the whole weight; positions count its entries in order.
        draw: as in `Cut`.

    Returns:
        int32, of this shape.
    """
    total = torch.Size(shape).numel()
    words = _mixed(_counted(-(-total // 2), draw.device), draw[0], draw[1])
    halves = torch.stack([words & 0xFFFF, _shifted(words, 16)], -1)
    return halves.flatten()[:total].view(*shape)


def random_scores(shape: Sequence[int], key: int, device: torch.device | None = None) -> Tensor:
    """Return a number in [0, 1) for each entry, float32, a function of (key, position) alone."""
    words = _counted(torch.Size(shape).numel(), device)
    mixed = _mixed(words, *(torch.tensor(half) for half in draw_of(key, 0)[:2]))
    return (_shifted(mixed, 8).float() / (1 << 24)).view(*shape)


def _counted(total: int, device: torch.device | None) -> Tensor:
    """Return the numbers of words, int32; they wrap beyond that."""
    wide = torch.int32 if total < 1 << 31 else torch.int64
    return torch.arange(total, dtype=wide, device=device).to(torch.int32)


def _mixed(words: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return `lowbias32` of words of 32 bits with both halves of a key mixed in."""
    first, second = map(_signed, MULTIPLIERS)
    words = words ^ low
    words = (words ^ _shifted(words, 16)) * first
    words = ((words ^ _shifted(words, 15)) + high) * second
    return words ^ _shifted(words, 16)


def _shifted(words: Tensor, bits: int) -> Tensor:
    """Return words of 32 bits shifted to the right, with zeros from the left."""
    return (words >> bits) & ((1 << (32 - bits)) - 1)


def _signed(number: int) -> int:
    """Return the lowest 32 bits of an integer as a signed one."""
    return ((number + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)
