"""CPU kernels: numpy on blocks of rows that stay in the cache, in several threads.

The plain functions read and write a whole matrix in each step. numpy has fast vector instructions,
and releases the interpreter's lock while it computes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hf_td import functional
from hf_td.functional import DRAW_LEVELS, Cut, Rule
from hf_td.kernels.reductions import INTEGERS

# Entries of a block: half a megabyte of scores, plus a copy of them.
_BLOCK = 1 << 17
# The fewest blocks that are worth a thread: waking one takes as long as a block or two.
_BLOCKS_PER_THREAD = 4
# The floating-point types that numpy shares with torch.
_TYPES = (torch.float32, torch.float64)

Rows = slice
Job = Callable[[], Any]


def can_compute(weight: Tensor, rule: Rule) -> bool:
    """Return True if `write_cutoffs` and `write_masked` support a weight."""
    usual = rule.pattern is None and rule.random_key is None and weight.dtype in _TYPES
    plain = type(weight) in (Tensor, nn.Parameter) and weight.device.type == "cpu"
    return usual and plain and weight.dim() in (2, 3)


def write_cutoffs(
    weights: Sequence[Tensor],
    scales: Sequence[Tensor | None],
    dims: Sequence[int],
    count: Callable[[int], int],
    outs: Sequence[Tensor],
) -> None:
    """Write the cut-offs of many weights; see `hf_td.kernels.cutoffs`.

    Args:
        weights: weights that `can_compute` supports.
        scales: for each weight, the scale of its inputs, or None.
        dims: for each weight, the ranked dimension.
        count: returns the number of candidates among a number of inputs, at least one and not all.
        outs: outputs, one for each weight, with size 1 along the ranked dimension.
    """
    jobs: list[Job] = []
    for weight, scale, dim, out in zip(weights, scales, dims, outs, strict=True):
        values = None if scale is None else scale.numpy()
        number = count(weight.shape[dim])
        for matrix, limits in zip(_matrices(weight), _matrices(out), strict=True):
            along = dim - weight.dim()
            rows, limits = np.moveaxis(matrix, along, -1), np.moveaxis(limits, along, -1)
            jobs += [
                partial(_rank, rows[block], values, number, limits[block])
                for block in _blocks(*rows.shape)
            ]
    _run(jobs, sum(weight.numel() for weight in weights) // _BLOCK)


def _rank(rows: Any, scale: Any, count: int, limits: Any) -> None:
    """Write the cut-offs of a block of rows, `(rows, fan_in)`, to `limits`, `(rows, 1)`."""
    scores = np.abs(rows, order="C")
    if scale is not None:
        scores *= scale
    # No score is negative, so bits have the order of scores. Integers are faster to partition.
    scores.view(f"u{scores.itemsize}").partition(count, axis=1)
    limits[:] = scores[:, count, None]


class _Cut(NamedTuple):
    """The cut of one matrix, as numpy arrays and integers; see `functional.Cut`.

    Attributes:
        cutoff: array that broadcasts to the matrix.
        scale: array that broadcasts to the matrix; None for ones.
        by_input: True if there is one infinite cut-off for each input; scores are not needed then.
        key: the low and the high half of the key of the draws.
        threshold: threshold of the draws.
        start: the position of the matrix's first entry in the whole weight.
    """

    cutoff: Any
    scale: Any
    by_input: bool
    key: tuple[int, int]
    threshold: int
    start: int


def write_masked(source: Tensor, weight: Tensor, cut: Cut, rule: Rule, out: Tensor) -> None:
    """Write a weight, or its gradient, with zeros where an update drops an entry.

    numpy has no bfloat16, so the bits are multiplied as integers: by 1 they stay, by 0 they become
    the number zero, even if the entry is not finite.

    Args:
        source: the weight or a gradient, floating point of 16 bits or more.
        weight: a weight that `can_compute` supports; the mask is computed from it.
        cut: the numbers of the update.
        rule: the rule of the weight, without pattern and random key.
        out: output, in the shape of `source`; may be `source` itself.
    """
    *key, threshold = cut.draw.tolist()
    if threshold == 0:
        if source is not out:
            out.copy_(source)
        return
    if source.dtype != out.dtype:
        source = out.copy_(source)
    scale = None
    if cut.scale is not None:
        shape = [1, 1]
        shape[rule.fan_in_dim - weight.dim()] = -1
        scale = cut.scale.view(shape).numpy()
    by_input = cut.cutoff.shape[rule.fan_in_dim] > 1
    integers = INTEGERS[out.element_size()]
    tensors = source.view(integers), weight, cut.cutoff, out.view(integers)
    jobs: list[Job] = []
    for number, (values, weights, limits, target) in enumerate(
        zip(*map(_matrices, tensors), strict=True)
    ):
        start = number * weights.size
        one = _Cut(limits, scale, by_input, (key[0], key[1]), threshold, start)
        jobs += [
            partial(_mask, values, weights, one, target, block) for block in _blocks(*weights.shape)
        ]
    _run(jobs, weight.numel() // _BLOCK)


def _mask(source: Any, weight: Any, cut: _Cut, out: Any, block: Rows) -> None:
    """Write a block of rows of `source` to `out`, with zeros at dropped entries."""
    scores = np.zeros(()) if cut.by_input else np.abs(weight[block])
    if cut.scale is not None and not cut.by_input:
        scores *= _rows(cut.scale, block)
    dropped = scores < _rows(cut.cutoff, block)
    if cut.threshold < DRAW_LEVELS:
        rows, columns = weight[block].shape
        first = cut.start + block.start * columns
        draws = _draws(first, rows * columns, *cut.key).reshape(rows, columns)
        dropped = dropped & (draws < cut.threshold)
    keep = np.logical_not(dropped, out=dropped)
    np.multiply(source[block], keep.view(np.int8), out=out[block])


def _rows(array: Any, block: Rows) -> Any:
    """Return a block of rows of an array, or its only row."""
    return array[block] if len(array) > 1 else array


def _draws(start: int, count: int, low: int, high: int) -> Any:
    """Return the `count` draws of `functional.draws` from a position on."""
    first, last = start >> 1, (start + count + 1) >> 1
    words = np.arange(last - first, dtype=np.uint32)
    words += np.uint32(first & 0xFFFFFFFF)
    words ^= np.uint32(low & 0xFFFFFFFF)
    words ^= words >> 16
    words *= np.uint32(functional.MULTIPLIERS[0])
    words ^= words >> 15
    words += np.uint32(high & 0xFFFFFFFF)
    words *= np.uint32(functional.MULTIPLIERS[1])
    words ^= words >> 16
    return words.astype("<u4", copy=False).view("<u2")[start & 1 :][:count]


def kth_lowest(scores: Tensor, count: int, dim: int) -> Tensor:
    """Compute `functional.kth_lowest`, more than ten times as fast for types that numpy has."""
    if scores.device.type != "cpu" or scores.dtype not in _TYPES:
        return functional.kth_lowest(scores, count, dim)
    ranked = np.partition(scores.detach().numpy(), count, axis=dim)
    return torch.from_numpy(ranked.take([count], axis=dim))  # a copy; a view would retain `ranked`


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
    bits = tensor.detach().view(INTEGERS[tensor.element_size()]).numpy()
    if chosen.dim() == tensor.dim() and chosen.numel() == chosen.shape[0] == tensor.shape[0]:
        bits[chosen.flatten().numpy()] = 0
    else:
        np.multiply(bits, (~chosen).view(torch.int8).numpy(), out=bits)


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
