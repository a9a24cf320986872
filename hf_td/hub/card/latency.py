"""Measures the latency of the dense and of the compact model, in turn."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

import torch
from torch import Tensor, nn

from hf_td.analysis.record import environment
from hf_td.anatomy import evaluating


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one forward.

    Attributes:
        median: of the runs.
        low: their first quartile.
        high: their third quartile.
    """

    median: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Latency:
    """A comparison of two latencies.

    Attributes:
        dense: forwards of the dense model.
        compact: forwards of the compact model.
        shape: shape of the main input, such as (batch, length).
        runs: timed forwards of each model.
        threads: number of threads of torch.
        dtype: of the compact model's weights.
        hardware: name of the GPU, or of the CPU.
    """

    dense: Timing
    compact: Timing
    shape: tuple[int, ...]
    runs: int
    threads: int
    dtype: str
    hardware: str

    @property
    def speedup(self) -> float:
        """The dense model's median over the compact model's."""
        return self.dense.median / self.compact.median


def measure_latency(
    dense: nn.Module,
    compact: nn.Module,
    inputs: Mapping[str, Any],
    *,
    runs: int = 30,
    warmup: int = 3,
) -> Latency:
    """Time forwards of two models in turn: what slows the machine slows both.

    Args:
        dense: the model to compare with.
        compact: the smaller model, on the same device.
        inputs: keyword arguments for a forward of either model.
        runs: timed forwards of each model, at least 2.
        warmup: forwards of each model before the timed ones.

    Raises:
        ValueError: `runs` is below 2, the inputs hold no tensor, or the models are on two devices.
    """
    if runs < 2:
        raise ValueError(f"a spread takes at least 2 runs, got {runs}")
    device = _common_device(dense, compact)
    shape = _shape_of(inputs)
    times: list[tuple[float, float]] = []
    with torch.no_grad(), evaluating(dense), evaluating(compact):
        for _ in range(warmup + runs):
            times.append((_time(dense, inputs, device), _time(compact, inputs, device)))
    dense_times, compact_times = zip(*times[warmup:], strict=True)
    return Latency(
        dense=_summarise(dense_times),
        compact=_summarise(compact_times),
        shape=shape,
        runs=runs,
        threads=torch.get_num_threads(),
        dtype=str(next(compact.parameters()).dtype).removeprefix("torch."),
        hardware=_hardware(device),
    )


def _common_device(dense: nn.Module, compact: nn.Module) -> torch.device:
    devices = {parameter.device for m in (dense, compact) for parameter in m.parameters()}
    if len(devices) != 1:
        raise ValueError(f"both models have to be on one device, got {sorted(map(str, devices))}")
    return devices.pop()


def _shape_of(inputs: Mapping[str, Any]) -> tuple[int, ...]:
    for value in inputs.values():
        if isinstance(value, Tensor):
            return tuple(value.shape)
    raise ValueError(f"inputs hold no tensor, got {sorted(inputs)}")


def _time(model: nn.Module, inputs: Mapping[str, Any], device: torch.device) -> float:
    """Return the milliseconds of one forward, with its kernels finished."""
    _wait_for(device)
    started = time.perf_counter()
    model(**inputs)
    _wait_for(device)
    return 1000 * (time.perf_counter() - started)


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _summarise(times: tuple[float, ...]) -> Timing:
    low, median, high = quantiles(times, n=4, method="inclusive")
    return Timing(median=median, low=low, high=high)


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return environment()["hardware"]["cpu"] or platform.machine()
