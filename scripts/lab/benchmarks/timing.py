"""Time things in turn, so that a load of the machine slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from hf_td.analysis.quartiles import Quartiles


def seconds_of(action: Callable[[], Any], device: str = "cpu") -> float:
    """Return the seconds that an action takes, until the device has finished its work."""
    _wait_for(device)
    started = time.perf_counter()
    action()
    _wait_for(device)
    return time.perf_counter() - started


def _wait_for(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize(device)


def take_turns(
    measures: Sequence[Callable[[], Any]], rounds: int, *, warmup: int = 0
) -> list[tuple[Any, ...]]:
    """Return the results of each measure, one a round.

    Args:
        measures: called one after the other in every round.
        rounds: that count, at least 2 for quartiles.
        warmup: rounds before these.
    """
    found = [[measure() for measure in measures] for _ in range(warmup + rounds)]
    return list(zip(*found[warmup:], strict=True))


def ratios(seconds: Sequence[float], baseline: Sequence[float]) -> Quartiles:
    """Return median and quartiles of the ratios of two measures, taken round by round."""
    return Quartiles.of([a / b for a, b in zip(seconds, baseline, strict=True)])
