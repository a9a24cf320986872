"""Measure the peak memory of training steps."""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import torch

from lab.benchmarks.training.cases import Case
from lab.benchmarks.training.steps import Stepper
from lab.benchmarks.training.variants import DENSE

_STEPS = 4


def measure_memory(
    cases: Sequence[Case], *, device: str = "cpu", threads: int = 1
) -> Iterator[dict[str, Any]]:
    """Yield the peak memory of each case and of the dense model, as JSON objects.

    On the CPU it is the largest resident size of a process that makes a few steps, Python and its
    libraries included. On CUDA it is the memory that torch allocated.
    """
    measured = _peak_of_own_process if device == "cpu" else _peak
    for case in cases:
        dense, _ = measured(replace(case, variant=DENSE), device, threads)
        peak, weights = measured(case, device, threads)
        yield {
            "case": "memory",
            **case.facts(),
            "bytes": peak,
            "dense_bytes": dense,
            "extra_bytes_per_weight": (peak - dense) / weights,
            "patched_weights": weights,
            "device": device,
        }


def _peak_of_own_process(case: Case, device: str, threads: int) -> tuple[int, int]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_peak, case, device, threads).result()


def _peak(case: Case, device: str, threads: int) -> tuple[int, int]:
    """Return the peak memory of a few steps in bytes, and the number of targeted weights."""
    torch.set_num_threads(threads)
    if device == "cuda":
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
    stepper = Stepper(case, device)
    for _ in range(_STEPS):
        stepper.step()
    if device == "cuda":
        return torch.cuda.max_memory_allocated(), stepper.patched_weights
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, stepper.patched_weights
