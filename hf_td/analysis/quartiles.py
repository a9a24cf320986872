"""What repeated measurements gave: the median, and how far half of them lie around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles


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
        """Those of at least two values."""
        low, median, high = quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def __str__(self) -> str:
        digits = 1 if self.median >= 10 else 3
        low, median, high = (f"{v:.{digits}f}" for v in (self.low, self.median, self.high))
        return f"{median} ({low} to {high})"
