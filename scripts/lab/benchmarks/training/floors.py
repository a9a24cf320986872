"""How long the parts of targeted dropout take, beside what moving their bytes takes at least."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from hf_td import kernels
from hf_td.analysis.timing import Quartiles
from hf_td.kernels import Order, Ranked, Ranking
from lab.benchmarks.training.steps import wait_for

# Those of MiniLM and of BERT-base; on CUDA such that the parts take longer than their launches.
_WIDTHS = {"cpu": (384, 768), "cuda": (2048, 4096)}
# Read and written between two runs, so that nothing of a run is in the cache for the next.
_FLUSH_BYTES = 1 << 28


def measure_floors(*, device: str = "cpu", layers: int = 6, rounds: int = 9) -> Iterator[Any]:
    """Time the parts on the float32 weights of some layers, and a copy of the same size.

    Yields:
        For each part a JSON object: its milliseconds, and the floor: the bytes that it must read
        and write over the bandwidth of a copy that was measured beside it.
    """
    for width in _WIDTHS[device]:
        weights = [
            torch.randn(s, device=device) * 0.04 for _ in range(layers) for s in _block(width)
        ]
        size = sum(weight.numel() for weight in weights)
        copies = _time(lambda w=weights: [one.clone() for one in w], device, rounds)
        bandwidth = 8 * size / (Quartiles.of(copies).median / 1000)  # read and written
        for name, per_weight, run in _parts(weights):
            times = Quartiles.of(_time(run, device, rounds))
            yield {
                "case": "kernel",
                "kernel": name,
                "width": width,
                "weights": size,
                "milliseconds": asdict(times),
                "floor_milliseconds": 1000 * per_weight * size / bandwidth,
                "copy_bytes_per_second": bandwidth,
                "rounds": rounds,
                "device": device,
            }


def _block(width: int) -> list[tuple[int, int]]:
    """Output units and inputs of the projections of a block of BERT's."""
    return [(width, width)] * 4 + [(4 * width, width), (width, 4 * width)]


def _parts(weights: list[Tensor]) -> Iterator[tuple[str, int, Callable[[], Any]]]:
    """Name, bytes that must move per weight, and what is timed."""
    scales = [torch.rand(w.shape[1], device=w.device) for w in weights]
    ranked = [Ranked(w, 1, s) for w, s in zip(weights, scales, strict=True)]
    ranking = Ranking(ranked)
    every, half = Order(0.91), Order(0.91, 0.5, range(len(ranked)))
    keeps = [keep for keep, _ in ranking.draw(every)]
    yield "masks", 4 + 1, lambda: ranking.draw(every)
    yield "masks, drop rate 0.5", 4 + 1, lambda: ranking.draw(half)
    if weights[0].is_cuda:
        both = Ranking([replace(one, compute=torch.bfloat16) for one in ranked])
        yield "masks and masked weights, bf16", 4 + 1 + 2, lambda: both.draw(every)
    yield "masked weights", 4 + 1 + 4, lambda: _masked(weights, keeps, torch.float32)
    yield "masked weights, bf16", 4 + 1 + 2, lambda: _masked(weights, keeps, torch.bfloat16)
    grads = [torch.randn_like(weight, dtype=torch.bfloat16) for weight in weights]
    learning = [weight.requires_grad_() for weight in weights]
    masked = _masked(learning, keeps, torch.bfloat16)
    yield "masked gradients, bf16", 2 + 1 + 4, lambda: torch.autograd.grad(masked, learning, grads)


def _masked(weights: list[Tensor], keeps: list[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    nothing_ready = [None] * len(weights)
    return kernels.masked_together(weights, keeps, nothing_ready, dtype, lambda: None)


def _time(run: Callable[[], Any], device: str, rounds: int) -> list[float]:
    """Milliseconds of each round, after one that does not count."""
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device=device)
    times = []
    for _ in range(rounds + 1):
        flush.add_(1)
        wait_for(device)
        started = time.perf_counter()
        run()
        wait_for(device)
        times.append(1000 * (time.perf_counter() - started))
    return times[1:]
