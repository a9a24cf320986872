"""Measures the latency of the dense and of the compact model, in turn."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hf_td.analysis.record import environment
from hf_td.analysis.timing import Quartiles, time_in_turn
from hf_td.anatomy import evaluating, in_own_type


@dataclass(frozen=True, kw_only=True)
class Latency:
    """A comparison of two latencies.

    Attributes:
        dense: milliseconds of a forward of the dense model.
        compact: milliseconds of a forward of the compact model.
        shape: shape of the main input, such as (batch, length).
        runs: timed forwards of each model.
        threads: number of threads of torch.
        dtype: of the compact model's weights.
        hardware: name of the GPU, or of the CPU.
    """

    dense: Quartiles
    compact: Quartiles
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

    Both compute in the type of their weights, without the autocast that a Trainer puts around one.

    Args:
        dense: the model to compare with.
        compact: the smaller model, on the same device.
        inputs: keyword arguments for a forward of either model.
        runs: timed forwards of each model, at least 2.
        warmup: forwards of each model before the timed ones.

    Raises:
        ValueError: `runs` is below 2, the inputs hold no tensor, or the models are on two devices.
    """
    device = _common_device(dense, compact)
    shape = _shape_of(inputs)
    with (
        torch.no_grad(),
        evaluating(dense),
        evaluating(compact),
        in_own_type(dense),
        in_own_type(compact),
    ):
        times = time_in_turn(
            [partial(dense, **inputs), partial(compact, **inputs)],
            rounds=runs,
            warmup=warmup,
            device=device,
        )
    of_dense, of_compact = (Quartiles.of([1000 * seconds for seconds in each]) for each in times)
    return Latency(
        dense=of_dense,
        compact=of_compact,
        shape=shape,
        runs=runs,
        threads=torch.get_num_threads(),
        dtype=str(next(compact.parameters()).dtype).removeprefix("torch."),
        hardware=hardware_of(device),
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


def hardware_of(device: torch.device) -> str:
    """Return the name of the GPU, or of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return environment()["hardware"]["cpu"] or platform.machine()
