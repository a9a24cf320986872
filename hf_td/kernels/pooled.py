"""Cut-offs of rankings over whole matrices and over the whole model.

A cut-off stays one number a row, equal in all rows that are ranked together. So masks need no
other kernels. Selecting among millions of scores costs no sort: on the CPU numpy partitions them,
elsewhere the bits of the cut-off are found one after another, for many matrices at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hf_td import functional
from hf_td.kernels import cpu_ranking
from hf_td.kernels.ranked import Ranked

# Longer rows are selected from bit by bit on a GPU, where `kthvalue` has one block for each row.
_LONG_ROW = 1 << 15
# Entries that are scored at once outside of the CPU.
_AT_ONCE = 1 << 26


def kth_lowest(scores: Tensor, count: int, dim: int) -> Tensor:
    """Compute `functional.kth_lowest`, fast on every device."""
    narrow = scores.dtype in (torch.float32, torch.bfloat16, torch.float16)
    if scores.device.type != "cpu" and narrow and scores.shape[dim] > _LONG_ROW:
        return by_bits(scores, count, dim)
    return cpu_ranking.kth_lowest(scores, count, dim)


def by_bits(scores: Tensor, count: int, dim: int) -> Tensor:
    """Compute `functional.kth_lowest` of float32 or narrower scores, by 32 passes over them.

    Nothing waits for the device.
    """
    numbers = _in_order(scores.float().contiguous().view(torch.int32))
    shape = numbers.narrow(dim, 0, 1).shape
    low, high = (
        torch.full(shape, end, dtype=torch.int64, device=scores.device)
        for end in (-(1 << 31), (1 << 31) - 1)
    )
    for _ in range(32):
        middle = (low + high) >> 1
        enough = (numbers <= middle.int()).sum(dim, keepdim=True) > count
        high = torch.where(enough, middle, high)
        low = torch.where(enough, low, middle + 1)
    return _in_order(high.int()).view(torch.float32).to(scores.dtype)


def _in_order(bits: Tensor) -> Tensor:
    """Return integers that have the order of the floats of these bits. It is its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def matrix_cutoffs(ranked: Sequence[Ranked], fraction: float) -> list[Tensor]:
    """Return the cut-offs of a ranking over each whole matrix, each expert's its own.

    Args:
        ranked: weights, none sharded.
        fraction: the targeting (gamma), in [0, 1).

    Returns:
        For each weight a tensor with size 1 along the inputs, as `hf_td.kernels.cutoffs`.
    """
    found: dict[int, Tensor] = {}
    on_cpu = [i for i, one in enumerate(ranked) if _is_easy(one, fraction)]
    if on_cpu:
        outs = [torch.empty_like(_row(ranked[i])) for i in on_cpu]
        weights, rules, scales, _ = zip(*(ranked[i] for i in on_cpu), strict=True)
        count = partial(functional.candidate_count, fraction=fraction)
        dims = [rule.fan_in_dim for rule in rules]
        cpu_ranking.write_cutoffs(weights, scales, dims, count, outs, whole=True)
        found.update(zip(on_cpu, outs, strict=True))
    for places in _alike(ranked, found):
        flat = torch.stack([_scores(ranked[i]).flatten(-2) for i in places])
        limits = functional.cutoffs(flat, fraction, -1, kth_lowest)
        found.update((i, _to_rows(ranked[i], one)) for i, one in zip(places, limits, strict=True))
    return [found[i] for i in range(len(ranked))]


def model_cutoffs(ranked: Sequence[Ranked], fraction: float, cap: float) -> list[Tensor]:
    """Return the cut-offs of one ranking over all weights.

    Scores are divided by the root mean square of their matrix, as by a global budget of
    `prune_model`.

    Args:
        ranked: weights, none sharded.
        fraction: the targeting (gamma) over all weights, in [0, 1).
        cap: the most of one matrix that can be candidates, in (0, 1].
    """
    sizes = [one.weight.numel() for one in ranked]
    count = functional.candidate_count(sum(sizes), fraction)
    if not count:
        return matrix_cutoffs(ranked, 0.0)
    if len({one.weight.dtype for one in ranked}) == 1 and all(map(_is_easy_matrix, ranked)):
        return _model_cutoffs_on_cpu(ranked, count, cap)
    caps = matrix_cutoffs(ranked, cap)
    means = [functional.root_mean_square(_scores(one, pattern=False)) for one in ranked]
    pairs = zip(ranked, caps, means, strict=True)
    device = ranked[0].weight.device
    below = [_below(one, limit, mean).to(device) for one, limit, mean in pairs]
    every = torch.cat(below)
    if count >= len(every):
        return caps
    limit = kth_lowest(every, count, 0)
    return [
        torch.minimum(high, (limit.to(mean) * mean).to(high))
        for high, mean in zip(caps, means, strict=True)
    ]


def _model_cutoffs_on_cpu(ranked: Sequence[Ranked], count: int, cap: float) -> list[Tensor]:
    """Compute `model_cutoffs` with a count of candidates among all weights.

    Matrices that would have too many are full: the others are ranked again for what is left.
    """
    weights, rules, scales, _ = zip(*ranked, strict=True)
    sizes = [weight.numel() for weight in weights]
    scores = torch.empty(sum(sizes), dtype=weights[0].dtype).split(sizes)
    dims = [rule.fan_in_dim for rule in rules]
    means = cpu_ranking.write_scores(weights, scales, dims, scores)
    free, limit = dict(enumerate(scores)), torch.inf
    while free:
        many = count < sum(map(len, free.values()))
        limit = cpu_ranking.select(list(free.values()), count) if many else torch.inf
        most = {i: functional.candidate_count(sizes[i], cap) for i in free}
        full = [i for i, some in free.items() if int((some < limit).sum()) > most[i]]
        if not full:
            break
        for i in full:
            del free[i]
            count -= most[i]
    pairs = zip(ranked, means, strict=True)
    return [
        torch.full_like(_row(one), limit * mean) if i in free else matrix_cutoffs([one], cap)[0]
        for i, (one, mean) in enumerate(pairs)
    ]


def _is_easy_matrix(one: Ranked) -> bool:
    usual = one.weight.dim() == 2 and one.weight.numel() > 1
    return usual and cpu_ranking.can_rank(one.weight, one.rule)


def _below(one: Ranked, limit: Tensor, mean: Tensor) -> Tensor:
    """Return the scores below a cut-off, over their root mean square, `(entries,)`."""
    scores = _scores(one)
    return (scores / mean)[scores < limit]


def _is_easy(one: Ranked, fraction: float) -> bool:
    matrix = one.weight.shape[-2:].numel()
    some = 0 < functional.candidate_count(matrix, fraction) < matrix
    return some and cpu_ranking.can_rank(one.weight, one.rule)


def _alike(ranked: Sequence[Ranked], found: dict[int, Tensor]) -> Iterator[list[int]]:
    """Yield the places of weights of one shape, type and device that have no cut-offs yet."""
    groups: dict[Any, list[int]] = defaultdict(list)
    for place, one in enumerate(ranked):
        if place not in found:
            groups[one.weight.shape, one.weight.dtype, one.weight.device].append(place)
    for (shape, *_), places in groups.items():
        step = max(1, _AT_ONCE // max(1, shape.numel()))
        yield from (places[start : start + step] for start in range(0, len(places), step))


def _scores(one: Ranked, *, pattern: bool = True) -> Tensor:
    rule = one.rule if pattern else one.rule._replace(pattern=None)
    scores = functional.weight_scores(one.weight, one.scale, rule)
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _row(one: Ranked) -> Tensor:
    return one.weight.detach().narrow(one.rule.fan_in_dim, 0, 1)


def _to_rows(one: Ranked, limits: Tensor) -> Tensor:
    """Return the cut-offs of matrices, `(1,)` or `(experts, 1)`, as one number for each row."""
    return limits.unsqueeze(-1).expand(_row(one).shape).contiguous()
