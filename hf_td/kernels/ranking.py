"""Cut-offs and sums of many weights at once, by the kernel for their device and type."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from hf_td import functional
from hf_td.kernels import cpu_ranking, cuda, pooled, reductions
from hf_td.kernels.ranked import Ranked
from hf_td.kernels.shards import gather_rows, is_sharded, local, rows_of

# `functional.candidate_mask` with a fast selection.
candidate_mask = partial(functional.candidate_mask, select=pooled.kth_lowest)


def cutoffs(
    ranked: Sequence[Ranked], fraction: float, over: str = "row", cap: float = 1.0
) -> list[Tensor]:
    """Return the cut-offs of an update, one number for each output unit of each weight.

    The candidates of rows are those of `functional.cutoffs`. On the CPU the numbers are equal too.
    On CUDA they may be any number above the last candidate and up to the next score.

    Collective where weights are sharded: each process ranks its rows.

    Args:
        ranked: weights, on one or several devices, sharded by rows or not.
        fraction: the targeting (gamma), in [0, 1).
        over: `row` ranks the inputs of each output unit, `matrix` the entries of each weight,
            `model` those of all weights.
        cap: the most of one weight that can be candidates in a ranking over the model, in (0, 1].

    Returns:
        For each weight a tensor with size 1 along the inputs, float32 or wider.

    Raises:
        ValueError: weights are sharded, and not ranked inside rows.
    """
    if over != "row":
        _check_whole(ranked, over)
        if over == "matrix":
            return pooled.matrix_cutoffs(ranked, fraction)
        return pooled.model_cutoffs(ranked, fraction, cap)
    own = [_own_rows(one) for one in ranked]
    pairs = zip(ranked, own, strict=True)
    # Random scores are of all rows already.
    weights = [one.weight if mine.rule.random_key is None else mine.weight for one, mine in pairs]
    return gather_rows(_of_own_rows(own, fraction), weights)


def _check_whole(ranked: Sequence[Ranked], over: str) -> None:
    if any(is_sharded(one.weight) for one in ranked):
        raise ValueError(
            f"rank_over={over!r} ranks rows of a weight together, and a process has a shard of "
            "them under FSDP2. Use rank_over='row', or DistributedDataParallel"
        )


def _own_rows(one: Ranked) -> Ranked:
    """Return what this process ranks: its rows, or all rows where no weight has to be read."""
    if not is_sharded(one.weight):
        return one
    rows = local(one.weight)
    if one.rule.random_key is not None:  # the scores are functions of the position alone
        return one._replace(weight=rows.new_empty(one.weight.shape))
    before = None if one.before is None else rows_of(one.before, one.weight)
    return one._replace(weight=rows, before=before)


def _of_own_rows(ranked: Sequence[Ranked], fraction: float) -> list[Tensor]:
    found: dict[int, Tensor] = {}
    fan_ins = [one.weight.shape[one.rule.fan_in_dim] for one in ranked]
    some = [i for i, n in enumerate(fan_ins) if 0 < functional.candidate_count(n, fraction) < n]
    for can_rank, compute in ((cuda.can_rank, cuda.cutoffs), (cpu_ranking.can_rank, _on_cpu)):
        taken = [i for i in some if i not in found and can_rank(ranked[i].weight, ranked[i].rule)]
        if taken:
            found.update(zip(taken, compute([ranked[i] for i in taken], fraction), strict=True))
    for i, one in enumerate(ranked):
        if i not in found:
            found[i] = _plain(one, fraction)
    return [found[i] for i in range(len(ranked))]


def _plain(one: Ranked, fraction: float) -> Tensor:
    scores = functional.weight_scores(one.weight, one.scale, one.rule)
    found = functional.cutoffs(scores, fraction, one.rule.fan_in_dim, cpu_ranking.kth_lowest)
    return found.to(torch.promote_types(found.dtype, torch.float32))


def _on_cpu(ranked: Sequence[Ranked], fraction: float) -> list[Tensor]:
    outs = [torch.empty_like(one.weight.narrow(one.rule.fan_in_dim, 0, 1)) for one in ranked]
    count = partial(functional.candidate_count, fraction=fraction)
    weights, rules, scales, _ = zip(*ranked, strict=True)
    cpu_ranking.write_cutoffs(weights, scales, [rule.fan_in_dim for rule in rules], count, outs)
    return outs


def sums_of_squares(weights: Sequence[Tensor], dim: int) -> Tensor:
    """Return the sums of squares along a dimension of each weight, in float32 or wider.

    Collective where weights are sharded: each process sums its rows.

    Args:
        weights: of one shape, type, stride and device, floating point, two dimensions.
        dim: the dimension that is summed over.

    Returns:
        `(weights, n)`, where n is the size of the other dimension.
    """
    sums = _sums_of_own_rows([local(weight) for weight in weights], dim)
    if not is_sharded(weights[0]):
        return sums
    return torch.stack(gather_rows(list(sums.unsqueeze(dim + 1)), weights)).squeeze(dim + 1)


def row_norms(weight: Tensor, dim: int) -> Tensor:
    """Return the L2 norm along `dim`, in float32 or wider, without that dimension.

    Collective where the weight is sharded: each process computes the norms of its rows.
    """
    norms = reductions.row_norms(local(weight), dim)
    return gather_rows([norms.unsqueeze(dim)], [weight])[0].squeeze(dim)


def _sums_of_own_rows(weights: Sequence[Tensor], dim: int) -> Tensor:
    if all(map(cuda.can_sum, weights)):
        return cuda.sums_of_squares(weights, dim)
    return torch.stack([reductions.sum_of_squares(weight, dim) for weight in weights])
