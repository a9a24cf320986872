"""Ranking on the CPU: numpy on blocks of rows that stay in the cache, in several threads.

numpy partitions a row more than ten times as fast as torch, and releases the interpreter's lock
while it computes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hf_td import functional
from hf_td.functional import Rule

# Entries of a block: half a megabyte of scores, plus a copy of them.
_BLOCK = 1 << 17
# A sample has one of so many scores. A prime shares no factor with the length of a row.
_SAMPLED = 61
# The fewest blocks that are worth a thread: waking one takes as long as a block or two.
_BLOCKS_PER_THREAD = 4
# The floating-point types that numpy shares with torch.
_TYPES = (torch.float32, torch.float64)

Rows = slice
Job = Callable[[], Any]


def can_rank(weight: Tensor, rule: Rule) -> bool:
    """Return True if `write_cutoffs` supports a weight."""
    usual = rule.pattern is None and rule.random_key is None and weight.dtype in _TYPES
    plain = type(weight) in (Tensor, nn.Parameter) and weight.device.type == "cpu"
    return usual and plain and weight.dim() in (2, 3)


def write_cutoffs(
    weights: Sequence[Tensor],
    scales: Sequence[Tensor | None],
    dims: Sequence[int],
    count: Callable[[int], int],
    outs: Sequence[Tensor],
    *,
    whole: bool = False,
) -> None:
    """Write the cut-offs of many weights; see `hf_td.kernels.cutoffs`.

    Args:
        weights: weights that `can_rank` supports.
        scales: for each weight, the scale of its inputs, or None.
        dims: for each weight, the ranked dimension.
        count: returns the number of candidates among a number of inputs, at least one and not all.
        outs: outputs, one for each weight, with size 1 along the ranked dimension.
        whole: rank the entries of each matrix together, and write equal cut-offs for its rows.
    """
    jobs: list[Job] = []
    for weight, scale, dim, out in zip(weights, scales, dims, outs, strict=True):
        values = None if scale is None else scale.numpy()
        number = count(weight.shape[-2:].numel() if whole else weight.shape[dim])
        for matrix, limits in zip(_matrices(weight), _matrices(out), strict=True):
            along = dim - weight.dim()
            rows, limits = np.moveaxis(matrix, along, -1), np.moveaxis(limits, along, -1)
            jobs += [
                partial(_rank, rows[block], values, number, limits[block], whole)
                for block in (_blocks(*rows.shape) if not whole else [slice(None)])
            ]
    _run(jobs, sum(weight.numel() for weight in weights) // _BLOCK)


def write_scores(
    weights: Sequence[Tensor],
    scales: Sequence[Tensor | None],
    dims: Sequence[int],
    outs: Sequence[Tensor],
) -> list[float]:
    """Write the scores of whole matrices, each over its root mean square, which is returned.

    Args:
        weights: matrices that `can_rank` supports.
        scales: for each weight, the scale of its inputs, or None.
        dims: for each weight, the dimension of its inputs.
        outs: outputs, `(entries,)`, of the type of the weight, in any order.
    """
    means = [0.0] * len(weights)

    def work(place: int) -> None:
        (matrix,) = _matrices(weights[place])
        rows, flat = np.moveaxis(matrix, dims[place], -1), outs[place].numpy()
        scores, scale = flat.reshape(rows.shape), scales[place]
        np.abs(rows, out=scores)
        if scale is not None:
            scores *= scale.numpy()
        mean = float(np.sqrt(np.dot(flat, flat) / flat.size))
        if not 1e-12 < mean < np.inf:
            mean = float(functional.root_mean_square(torch.from_numpy(flat)))
        flat /= flat.dtype.type(mean)
        means[place] = mean

    jobs = [partial(work, place) for place in range(len(weights))]
    _run(jobs, sum(weight.numel() for weight in weights) // _BLOCK)
    return means


def select(scores: Sequence[Tensor], count: int) -> float:
    """Return the score at place `count`, from 0, of many scores of at least 0.

    A sample gives two bounds that are far more likely than not to have the score between them. So
    one pass leaves few scores to partition.

    Args:
        scores: `(entries,)` each, of one type that numpy has.
        count: less than there are scores in all.
    """
    arrays = [one.numpy() for one in scores]
    low, high = _bounds(np.concatenate([one[::_SAMPLED] for one in arrays]), count, arrays)
    below, between = 0, []
    for array in arrays:
        for start in range(0, len(array), _BLOCK):
            block = array[start : start + _BLOCK]
            below += np.count_nonzero(block < low)
            between.append(block[(block >= low) & (block <= high)])
    few = np.concatenate(between)
    if not below <= count < below + len(few):  # the sample misled, or there are scores of nan
        few, below = np.concatenate(arrays), 0
    few.view(f"u{few.itemsize}").partition(count - below)
    return float(few[count - below])


def _bounds(sample: Any, count: int, arrays: Sequence[Any]) -> tuple[Any, Any]:
    """Return bounds of the score at a place, eight standard errors from where it is expected."""
    place = count * len(sample) // sum(map(len, arrays))
    error = 4 * math.isqrt(len(sample)) + 1
    ends = max(place - error, 0), min(place + error, len(sample) - 1)
    sample.view(f"u{sample.itemsize}").partition(ends)
    low, high = sample[list(ends)]
    return (low if place >= error else 0), (high if place + error < len(sample) else np.inf)


def _rank(rows: Any, scale: Any, count: int, limits: Any, whole: bool) -> None:
    """Write the cut-offs of a block of rows, `(rows, fan_in)`, to `limits`, `(rows, 1)`."""
    scores = np.abs(rows, order="C")
    if scale is not None:
        scores *= scale
    if whole:
        scores = scores.reshape(1, -1)
    # No score is negative, so bits have the order of scores. Integers are faster to partition.
    scores.view(f"u{scores.itemsize}").partition(count, axis=1)
    limits[:] = scores[:, count, None]


def kth_lowest(scores: Tensor, count: int, dim: int) -> Tensor:
    """Compute `functional.kth_lowest`, more than ten times as fast for types that numpy has."""
    if scores.device.type != "cpu" or scores.dtype not in _TYPES:
        return functional.kth_lowest(scores, count, dim)
    ranked = np.partition(scores.detach().numpy(), count, axis=dim)
    return torch.from_numpy(ranked.take([count], axis=dim))  # a copy; a view would retain `ranked`


def _matrices(tensor: Tensor) -> list[Any]:
    """Return the numpy arrays of a matrix or of a stack of matrices, one for each expert."""
    array = np.from_dlpack(tensor.detach())
    return [array] if array.ndim == 2 else list(array)


def _blocks(rows: int, columns: int) -> Iterator[Rows]:
    height = max(1, _BLOCK // max(1, columns))
    return (slice(start, start + height) for start in range(0, rows, height))


def _run(jobs: Sequence[Job], blocks: int) -> None:
    """Run jobs of `blocks` blocks in all, in at most as many threads as torch may use."""
    threads = min(torch.get_num_threads(), blocks // _BLOCKS_PER_THREAD)
    waiting = iter(jobs)  # shared: every thread takes its next job from it
    if threads < 2:
        _run_all(waiting)
        return
    for _ in _pool(os.getpid()).map(_run_all, [waiting] * threads):
        pass


def _run_all(jobs: Iterator[Job]) -> None:
    for job in jobs:
        job()


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Return the thread pool of a process, with at most one thread per core.

    Threads do not survive a fork, so a forked process gets a pool of its own.
    """
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="hf_td")
