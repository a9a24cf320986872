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
from torch import Tensor, nn

from hf_td import functional
from hf_td.kernels.ranked import Drawn, Order, Ranked
from hf_td.kernels.reductions import INTEGERS

# Entries of a block: half a megabyte of scores, beside a copy of them.
_BLOCK = 1 << 17
# To wake a thread takes as long as a block or two.
_BLOCKS_PER_THREAD = 4
# Types that numpy has too.
_TYPES = (torch.float32, torch.float64)

Block = tuple[slice, ...]
Job = Callable[..., Any]


def supports(one: Ranked) -> bool:
    """Whether weights can be ranked here."""
    weight = one.weight
    return weight.device.type == "cpu" and weight.dim() == 2 and weight.dtype in _TYPES


def keep_masks(ranked: Sequence[Ranked], order: Order) -> list[Drawn]:
    """The masks of an update; see `hf_td.kernels.Ranking`."""
    keeps = [torch.empty_like(one.weight, dtype=torch.bool) for one in ranked]
    jobs = [
        job
        for place, (one, keep) in enumerate(zip(ranked, keeps, strict=True))
        for job in _mask_jobs(one, keep, order.of([place]))
    ]
    _run(jobs, blocks=sum(one.weight.numel() for one in ranked) // _BLOCK)
    return list(map(Drawn, keeps))


def multiplies(tensor: Tensor, keep: Tensor) -> bool:
    """Whether `multiply` takes a tensor and a mask."""
    plain = type(tensor) in (Tensor, nn.Parameter) and type(keep) is Tensor
    known = tensor.element_size() in INTEGERS and keep.dtype == torch.bool
    return plain and known and tensor.device.type == "cpu"


def multiply(tensor: Tensor, keep: Tensor, out: Tensor) -> Tensor:
    """Write the product with a boolean mask to `out`, and return it.

    Of integers, since numpy has no bfloat16: the bits of a number times one are its bits, times
    zero they are the number zero.

    Args:
        tensor: floating point, of 16 bits or more.
        keep: boolean, broadcastable to `tensor`.
        out: of the shape of `tensor` and any such type; `tensor` itself too.
    """
    if tensor.dtype != out.dtype:
        tensor = out.copy_(tensor)
    integers = INTEGERS[out.element_size()]
    source, target = (t.detach().view(integers).numpy() for t in (tensor, out))
    mask = np.broadcast_to(keep.view(torch.int8).numpy(), source.shape)
    blocks = _blocks(len(source), source.size // max(1, len(source)))
    jobs = [partial(np.multiply, source[b], mask[b], out=target[b]) for b in blocks]
    _run(jobs, source.size // _BLOCK)
    return out


def clear_rows(tensor: Tensor, chosen: Tensor) -> None:
    """Set rows to zero, in place; the others are not touched.

    Args:
        tensor: floating point, of 16 bits or more.
        chosen: boolean, one for each row.
    """
    integers = INTEGERS[tensor.element_size()]
    tensor.detach().view(integers).numpy()[chosen.numpy()] = 0


def _mask_jobs(one: Ranked, keep: Tensor, order: Order) -> Iterator[Job]:
    """What writes the mask of one weight, of which alone the order is."""
    count = functional.candidate_count(one.weight.shape[one.dim], order.fraction)
    if not 0 < count < one.weight.shape[one.dim]:
        yield lambda: keep.fill_(count == 0)  # nothing to rank
        return
    rows, kept = (t.detach().movedim(one.dim, 1).numpy() for t in (one.weight, keep))
    scale = None if one.scale is None else one.scale.numpy()
    mask = partial(_mask, rows, scale, kept, count)
    blocks = _blocks(*rows.shape)
    if order.drop_rate < 1:
        yield partial(_mask_drawn, mask, blocks, one, order)
    else:
        yield from (partial(mask, block) for block in blocks)


def _mask_drawn(mask: Job, blocks: Iterator[Block], one: Ranked, order: Order) -> None:
    """Mask the blocks of a weight in one job, since its draws come one after the other."""
    below = functional.drop_threshold(order.drop_rate) - (1 << 15)  # draws are signed
    device, (key,) = one.weight.device, order.keys
    generator = functional.generator(device, key)
    draws = functional.random_draws(one.weight.shape, generator, device)
    draws = draws.movedim(one.dim, 1).numpy()
    for block in blocks:
        mask(block, draws[block] < below)


def _mask(rows: Any, scale: Any, keep: Any, count: int, block: Block, drawn: Any = None) -> None:
    """Write the mask of a block of `rows`, a numpy array of shape `(rows, fan_in)`, to `keep`.

    Candidates are dropped that are `drawn`; all are where it is None.
    """
    scores = np.abs(rows[block], order="C")
    if scale is not None:
        scores *= scale
    # None is negative, so they are in the order of their bits, and integers are faster to select.
    bits = scores.view(f"u{scores.itemsize}")
    ranked = np.partition(bits, count, axis=1).view(scores.dtype)
    dropped = scores < ranked[:, count, None]
    if drawn is not None:
        dropped &= drawn
    np.logical_not(dropped, out=keep[block])


def _blocks(rows: int, columns: int) -> Iterator[Block]:
    height = max(1, _BLOCK // max(1, columns))
    return ((slice(start, start + height),) for start in range(0, rows, height))


def _run(jobs: Sequence[Job], blocks: int) -> None:
    """Run jobs that are so many blocks together, in as many of torch's threads as are worth it."""
    threads = min(torch.get_num_threads(), blocks // _BLOCKS_PER_THREAD)
    waiting = iter(jobs)  # which every thread takes its next job from
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
    """Threads do not outlive a fork, so every process has its own; no more than it has cores."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="hf_td")
