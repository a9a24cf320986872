"""Times calls in turn, and summarises repeated measurements."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

import torch


@dataclass(frozen=True)
class Quartiles:
    """The median and the quartiles of some measurements.

    Attributes:
        median: half of them are below.
        low: a quarter of them are below.
        high: a quarter of them are above.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quartiles:
        """Return the quartiles of at least two values."""
        low, median, high = quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def __str__(self) -> str:
        digits = 1 if self.median >= 10 else 3
        low, median, high = (f"{v:.{digits}f}" for v in (self.low, self.median, self.high))
        return f"{median} ({low} to {high})"


def time_in_turn(
    calls: Sequence[Callable[[], Any]],
    *,
    rounds: int,
    warmup: int = 1,
    device: str | torch.device = "cpu",
) -> list[tuple[float, ...]]:
    """Time several calls in turn: whatever slows the machine for a while slows all of them.

    Args:
        calls: what is timed.
        rounds: timed rounds, at least 2; each call runs once in a round.
        warmup: rounds before these, which are not counted.
        device: the device that the calls compute on.

    Returns:
        For each call its seconds, one for each round. `Quartiles.of` summarises them, or the ratios
        of two calls round by round.

    Raises:
        ValueError: there are fewer than 2 rounds.
    """
    if rounds < 2:
        raise ValueError(f"quartiles take at least 2 rounds, got {rounds}. Pass rounds=2 or more")
    times = [[seconds_of(call, device) for call in calls] for _ in range(warmup + rounds)]
    return list(zip(*times[warmup:], strict=True))


def seconds_of(call: Callable[[], Any], device: str | torch.device = "cpu") -> float:
    """Time one call until the device has finished it."""
    synchronize(device)
    started = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: str | torch.device) -> None:
    """Wait until a device has finished its work; a no-op on the CPU."""
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize(device)
