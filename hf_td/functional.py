"""Targeted dropout on plain tensors (Gomez et al., arXiv 1905.13678, section 4).

An update is its cut-offs. A score measures the importance of a weight. The lowest fraction of each
row are the candidates: the scores below one number per row, its cut-off. A candidate is dropped if
its draw says so, and the draw follows from a key and the position. So the mask of a weight is a
pure function of the weight, its cut-offs and a key. It is computed where it is needed and never
stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

# The number of values of a draw, an integer of 16 bits. A candidate is dropped if its draw is below
# the threshold of the update.
DRAW_LEVELS = 1 << 16

# Up to this many neighbours are compared pair by pair, more are sorted.
_FEW_NEIGHBOURS = 16

# The multipliers of `lowbias32`, a 32-bit mixing function by Chris Wellons.
MULTIPLIERS = (0x7FEB352D, 0x846CA68B)


class Rule(NamedTuple):
    """The rule by which every update scores a weight.

    Attributes:
        fan_in_dim: the dimension of the weight that runs over the inputs; scores are ranked along
            it.
        pattern: (lowest, of): only the `lowest` of each group of `of` neighbours can be candidates.
        random_key: scores are a function of this key and the position, in place of magnitudes.
    """

    fan_in_dim: int
    pattern: tuple[int, int] | None = None
    random_key: int | None = None


class Cut(NamedTuple):
    """The numbers that decide what one update drops of one weight.

    Attributes:
        cutoff: scores below it are candidates; broadcasts to the weight. Minus infinity makes no
            entry of a row a candidate, infinity every entry.
        draw: `(3,)`, int64: the low half of the key, its high half, and the threshold. A candidate
            is dropped if its draw is below the threshold: 0 drops none, `DRAW_LEVELS` all.
        scale: factor on the magnitudes of each input, `(fan_in,)`; None for ones.
    """

    cutoff: Tensor
    draw: Tensor
    scale: Tensor | None = None


def masked(weight: Tensor, cut: Cut, rule: Rule) -> Tensor:
    """Return the weight with zeros in place of dropped entries, which get no gradient.

    The mask itself is not differentiated. Kept weights are not rescaled (paper, section 4).

    Args:
        weight: any shape, floating point.
        cut: the numbers of the update.
        rule: the rule of the weight.
    """
    return weight.masked_fill(is_dropped(weight, cut, rule), 0)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None, fan_in_dim: int) -> Tensor:
    """Return the output of `nn.Linear`, or of GPT-2's `Conv1D`, `(..., out)`.

    Args:
        input: `(..., in)`.
        weight: `(out, in)`, or `(in, out)` if `fan_in_dim` is 0.
        bias: `(out,)`, or None; not None if `fan_in_dim` is 0.
        fan_in_dim: the dimension of the weight that runs over the inputs.
    """
    if fan_in_dim:
        return torch.nn.functional.linear(input, weight, bias)
    assert bias is not None
    flat = input.reshape(-1, input.shape[-1])
    return torch.addmm(bias, flat, weight).view(*input.shape[:-1], weight.shape[1])


def is_dropped(weight: Tensor, cut: Cut, rule: Rule) -> Tensor:
    """Return True where an update drops an entry, boolean, in the shape of the weight."""
    candidates = weight_scores(weight, cut.scale, rule) < cut.cutoff
    return candidates & is_drawn(weight.shape, cut.draw)


def weight_scores(weight: Tensor, scale: Tensor | None, rule: Rule) -> Tensor:
    """Return the scores of a weight, at least 0, in the shape of the weight.

    A score is the magnitude times the scale of the input, or a fixed random number. It is infinite
    where the pattern allows no candidate.

    Args:
        weight: `(out, in)`, `(in, out)`, or with leading dimensions.
        scale: `(fan_in,)`; None for ones.
        rule: the rule of the weight.
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

    A small epsilon guards against rounding: `int(0.29 * 100)` is 28 in floating point.
    """
    return min(total, int(fraction * total + 1e-6))


def kth_lowest(scores: Tensor, count: int, dim: int) -> Tensor:
    """Return the score at place `count`, from 0, in ascending order along `dim`, kept as size 1."""
    return scores.kthvalue(count + 1, dim=dim, keepdim=True).values


# A function with the arguments and the result of `kth_lowest`.
Select = Callable[[Tensor, int, int], Tensor]


def cutoffs(scores: Tensor, fraction: float, dim: int = -1, select: Select = kth_lowest) -> Tensor:
    """Return the cut-offs below which `floor(fraction * n)` of the `n` scores along `dim` lie.

    Args:
        scores: any shape.
        fraction: the targeting (gamma) or the sparsity, in [0, 1].
        dim: the ranked dimension; each slice along it is ranked separately.
        select: finds the cut-off of a count.

    Returns:
        The cut-offs, with size 1 along `dim`. Scores strictly below are candidates, as in the
        authors' code. Scores equal to the cut-off are not, so ties leave fewer candidates.
    """
    total = scores.shape[dim]
    count = candidate_count(total, fraction)
    if 0 < count < total:
        return select(scores, count, dim)
    nothing = scores.narrow(dim, 0, 1) if total else scores.sum(dim, keepdim=True)
    return torch.full_like(nothing, torch.inf if count else -torch.inf)


def root_mean_square(scores: Tensor) -> Tensor:
    """Return the root mean square of all scores, a scalar, positive.

    Minus infinity, the score of what is removed already, counts as 0.
    """
    known = scores.masked_fill(scores.isneginf(), 0)
    found = known.square().mean().sqrt()
    if not found.isfinite():  # the squares overflow
        largest = known.abs().max()
        found = (known / largest).square().mean().sqrt() * largest
    return found.clamp(min=1e-12)


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
        dim: the ranked dimension; each slice along it is ranked separately.
        break_ties: add scores equal to the cut-off, in order of position, until the count is
            exact. By default they are left out, as in the authors' code.
        select: finds the cut-off of a count.

    Returns:
        A boolean tensor of the shape of `scores`.
    """
    count = candidate_count(scores.shape[dim], fraction)
    limit = cutoffs(scores, fraction, dim, select)
    if count in (0, scores.shape[dim]) and not limit.isfinite().any():
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

    Of equal scores the first ones count as lower. Every group has exactly `lowest` of them, as the
    sparse kernels of GPUs expect (2:4).

    Args:
        scores: any shape, with a multiple of `of` entries along `dim`.
        lowest: number of candidates in each group, in [0, of].
        of: size of a group.
        dim: the dimension along which entries are neighbours.

    Returns:
        A boolean tensor of the shape of `scores`.
    """
    groups = scores.movedim(dim, -1).unflatten(-1, (-1, of))
    if of > _FEW_NEIGHBOURS:
        first = groups.argsort(dim=-1, stable=True)[..., :lowest]
        chosen = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, first, True)
        return chosen.flatten(-2).movedim(-1, dim)
    # One tensor for each place in a group: comparing places pair by pair needs no sort.
    places = groups.unbind(-1)
    ranks = [torch.zeros_like(place, dtype=torch.int16) for place in places]
    for first, second in combinations(range(of), 2):
        is_lower = places[second] < places[first]
        ranks[first] += is_lower
        ranks[second] += ~is_lower
    chosen = torch.stack([rank < lowest for rank in ranks], -1)
    return chosen.flatten(-2).movedim(-1, dim)


def unit_norms(members: Sequence[Tensor]) -> Tensor:
    """Return the L2 norm of each unit over all rows that produce it (paper, section 4.1).

    Args:
        members: norms of the rows of each unit, one tensor `(..., units, per_unit)` per producer.

    Returns:
        Scores of shape `(..., units)`.
    """
    return torch.stack([m.square().sum(-1) for m in members]).sum(0).sqrt()


def drop_threshold(drop_rate: float) -> int:
    """Return the number of the `DRAW_LEVELS` values of a draw that drop a candidate."""
    return round(drop_rate * DRAW_LEVELS)


def draw_key(*parts: int) -> int:
    """Return a key of 64 mixed bits, a signed integer that is a function of `parts`."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def draw_of(key: int, threshold: int) -> list[int]:
    """Return the three numbers of `Cut.draw`.

    Args:
        key: from `draw_key`.
        threshold: from `drop_threshold`.
    """
    return [_signed(key), _signed(key >> 32), threshold]


def is_drawn(shape: Sequence[int], draw: Tensor) -> Tensor:
    """Return True where the draw of an entry is below the threshold, boolean, in `shape`."""
    return draws(shape, draw) < draw[2]


def draws(shape: Sequence[int], draw: Tensor, start: int = 0) -> Tensor:
    """Return an integer in [0, 2**16) for each entry, a function of (key, position) alone.

    Each 32-bit word yields the draws of two neighbours, the low half first. Draws are equal on all
    devices.

    Args:
        shape: shape of the whole weight, or of consecutive entries of it.
        draw: see `Cut`.
        start: the position of the first entry; positions count the entries of the whole weight in
            order.

    Returns:
        int32, in `shape`.
    """
    total = torch.Size(shape).numel()
    first, end = start // 2, -(-(start + total) // 2)
    words = _mixed(_positions(first, end, draw.device), draw[0], draw[1])
    return words.view(torch.uint16)[start % 2 :][:total].to(torch.int32).view(*shape)


def random_scores(shape: Sequence[int], key: int, device: torch.device | None = None) -> Tensor:
    """Return a number in [0, 1) for each entry, float32, a function of (key, position) alone."""
    positions = _positions(0, torch.Size(shape).numel(), device)
    mixed = _mixed(positions, *(torch.tensor(half) for half in draw_of(key, 0)[:2]))
    return (_shifted(mixed, 8, mixed).float() / (1 << 24)).view(*shape)


def _positions(first: int, end: int, device: torch.device | None) -> Tensor:
    """Return `first` to `end - 1` as int32, wrapped to 32 bits."""
    wide = torch.int32 if end < 1 << 31 else torch.int64
    return torch.arange(first, end, dtype=wide, device=device).to(torch.int32)


def _mixed(words: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return `lowbias32` of 32-bit words, in place, with both halves of a key mixed in."""
    first, second = map(_signed, MULTIPLIERS)
    spare = torch.empty_like(words)
    words ^= low
    words ^= _shifted(words, 16, spare)
    words *= first
    words ^= _shifted(words, 15, spare)
    words += high
    words *= second
    words ^= _shifted(words, 16, spare)
    return words


def _shifted(words: Tensor, bits: int, out: Tensor) -> Tensor:
    """Return 32-bit words shifted to the right, filled with zeros, in `out`."""
    torch.bitwise_right_shift(words, bits, out=out)
    return out.bitwise_and_((1 << (32 - bits)) - 1)


def _signed(number: int) -> int:
    """Return the lowest 32 bits of an integer as a signed integer."""
    return ((number + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)
