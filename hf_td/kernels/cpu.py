"""On the CPU: blocks of rows that stay in the cache, several threads, numpy's vector instructions.

A step by step evaluation of the same functions reads and writes whole matrices for each step, and
torch's operations on booleans are no vector instructions. numpy lets other threads run meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_td import functional
from hf_td.kernels.ranked import Ranked

# Entries of a block: a quarter of a megabyte of scores, beside a copy of them.
_BLOCK = 1 << 16
# To wake a thread takes as long as a block or two.
_BLOCKS_PER_THREAD = 4
# Types that numpy has too.
_TYPES = (torch.float32, torch.float64)

Block = tuple[slice, ...]
Job = Callable[[], Any]


def supports(one: Ranked) -> bool:
    """Whether `keep_masks` takes a weight."""
    weight = one.weight
    return weight.device.type == "cpu" and weight.dim() == 2 and weight.dtype in _TYPES


def keep_masks(ranked: Sequence[Ranked], fraction: float, drop_rate: float) -> list[Tensor]:
    """The masks of an update; see `hf_td.kernels.keep_masks`."""
    keeps = [torch.empty_like(one.weight, dtype=torch.bool) for one in ranked]
    _run(
        job
        for one, keep in zip(ranked, keeps, strict=True)
        for job in _mask_jobs(one, keep, fraction, drop_rate)
    )
    return keeps


def _mask_jobs(one: Ranked, keep: Tensor, fraction: float, drop_rate: float) -> Iterator[Job]:
    count = functional.candidate_count(one.weight.shape[one.dim], fraction)
    if not 0 < count < one.weight.shape[one.dim]:
        yield lambda: keep.fill_(count == 0)  # nothing to rank
        return
    rows, kept = (t.detach().movedim(one.dim, 1).numpy() for t in (one.weight, keep))
    scale = None if one.scale is None else one.scale.numpy()
    drawn = None
    if drop_rate < 1:
        draws = functional.generator(keep.device, one.key)
        drawn = functional.random_drop(keep.shape, drop_rate, draws, keep.device)
        drawn = drawn.movedim(one.dim, 1).numpy()
    for block in _blocks(*rows.shape):
        some = None if drawn is None else drawn[block]
        yield partial(_mask, rows[block], scale, some, kept[block], count)


def _mask(rows: Any, scale: Any, drawn: Any, keep: Any, count: int) -> None:
    """Write the mask of some rows, numpy arrays of shape `(rows, fan_in)`, to `keep`."""
    scores = np.abs(rows, order="C")
    if scale is not None:
        scores *= scale
    ranked = scores.copy()
    ranked.partition(count, axis=1)
    dropped = scores < ranked[:, count, None]
    if drawn is not None:
        dropped &= drawn
    np.logical_not(dropped, out=keep)


def _blocks(rows: int, columns: int) -> Iterator[Block]:
    height = max(1, _BLOCK // max(1, columns))
    return ((slice(start, start + height),) for start in range(0, rows, height))


def _run(jobs: Iterator[Job]) -> None:
    """Run jobs that are a block each, in as many threads as torch has and as are worth it."""
    waiting = list(jobs)
    threads = min(torch.get_num_threads(), len(waiting) // _BLOCKS_PER_THREAD)
    if threads < 2:
        _run_all(waiting)
        return
    pool = _pool(os.getpid(), threads)
    for _ in pool.map(_run_all, [waiting[i::threads] for i in range(threads)]):
        pass


def _run_all(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job()


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads do not outlive a fork, so every process has its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="hf_td")
