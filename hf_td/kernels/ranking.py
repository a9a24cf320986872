"""Cut-offs and sums of many weights at once, by the kernel for their device and type."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from hf_td import functional
from hf_td.kernels import cpu, cuda, reductions
from hf_td.kernels.ranked import Ranked

# `functional.candidate_mask` with a fast selection.
candidate_mask = partial(functional.candidate_mask, select=cpu.kth_lowest)


def cutoffs(ranked: Sequence[Ranked], fraction: float) -> list[Tensor]:
    """Return the cut-offs of an update, one number for each output unit of each weight.

    The candidates are those of `functional.cutoffs`. On the CPU the numbers are equal too. On CUDA
    they may be any number above the last candidate and up to the next score.

    Args:
        ranked: weights, on one or several devices.
        fraction: the targeting (gamma), in [0, 1).

    Returns:
        For each weight a tensor with size 1 along the inputs, float32 or wider.
    """
    found: dict[int, Tensor] = {}
    fan_ins = [one.weight.shape[one.rule.fan_in_dim] for one in ranked]
    some = [i for i, n in enumerate(fan_ins) if 0 < functional.candidate_count(n, fraction) < n]
    for can_rank, compute in ((cuda.can_rank, cuda.cutoffs), (cpu.can_compute, _on_cpu)):
        taken = [i for i in some if i not in found and can_rank(ranked[i].weight, ranked[i].rule)]
        if taken:
            found.update(zip(taken, compute([ranked[i] for i in taken], fraction), strict=True))
    for i, one in enumerate(ranked):
        if i not in found:
            found[i] = _plain(one, fraction)
    return [found[i] for i in range(len(ranked))]


def _plain(one: Ranked, fraction: float) -> Tensor:
    scores = functional.weight_scores(one.weight, one.scale, one.rule)
    found = functional.cutoffs(scores, fraction, one.rule.fan_in_dim, cpu.kth_lowest)
    return found.to(torch.promote_types(found.dtype, torch.float32))


def _on_cpu(ranked: Sequence[Ranked], fraction: float) -> list[Tensor]:
    outs = [torch.empty_like(one.weight.narrow(one.rule.fan_in_dim, 0, 1)) for one in ranked]
    count = partial(functional.candidate_count, fraction=fraction)
    weights, rules, scales, _ = zip(*ranked, strict=True)
    cpu.write_cutoffs(weights, scales, [rule.fan_in_dim for rule in rules], count, outs)
    return outs


def sums_of_squares(weights: Sequence[Tensor], dim: int) -> Tensor:
    """Return the sums of squares along a dimension of each weight, in float32 or wider.

    Args:
        weights: of one shape, type, stride and device, floating point, two dimensions.
        dim: the dimension that is summed over.

    Returns:
        `(weights, n)`, where n is the size of the other dimension.
    """
    if all(map(cuda.can_sum, weights)):
        return cuda.sums_of_squares(weights, dim)
    return torch.stack([reductions.sum_of_squares(weight, dim) for weight in weights])
