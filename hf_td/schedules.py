"""Schedules: pure functions from progress in [0, 1] to a fraction of the final rate.

Progress is completed updates over all updates. A schedule has no state, so a resumed run has the
rates of an uninterrupted one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

Shape = Callable[[float], float]


def _piecewise(t: float) -> float:
    """Return the paper's ramp of the targeting: 95 % of the way in the first half of its length."""
    return 0.95 * min(1.0, 2 * t) + 0.05 * max(0.0, 2 * t - 1)


# The value of each ramp after the fraction t in [0, 1] of its length. A new shape is a new row.
SHAPES: dict[str, Shape] = {
    "constant": lambda t: 1.0,
    "linear": lambda t: t,
    "cosine": lambda t: (1 - math.cos(math.pi * t)) / 2,
    "cubic": lambda t: 1 - (1 - t) ** 3,
    "piecewise": _piecewise,
}


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A ramp from a fraction of the final rate to the final rate, with draws for single updates.

    Attributes:
        shape: one of `SHAPES`.
        initial: fraction of the final rate at the start of the ramp, in [0, 1].
        begin: progress at which the ramp starts, in [0, 1).
        end: progress at which the ramp ends, in (begin, 1].
        sampled: share of updates that draw a rate from [0, ramp]. At 1, a single run trains the
            network for every rate up to the final one.
        off: share of dense updates, whose rate is 0. They preserve the unpruned network.
    """

    shape: str = "constant"
    initial: float = 0.0
    begin: float = 0.0
    end: float = 1.0
    sampled: float = 0.0
    off: float = 0.0

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"schedule shape must be one of {sorted(SHAPES)}, got {self.shape!r}")
        if not 0 <= self.initial <= 1:
            raise ValueError(
                f"schedule initial is a fraction of the final rate in [0, 1], got {self.initial}"
            )
        if not 0 <= self.begin < self.end <= 1:
            raise ValueError(
                "schedule begin and end are fractions of the run, 0 <= begin < end <= 1, "
                f"got begin={self.begin}, end={self.end}. A ramp with a later end would outlast "
                "the run. Choose an end of at most 1"
            )
        if not (self.sampled >= 0 and self.off >= 0 and self.sampled + self.off <= 1):
            raise ValueError(
                "schedule sampled and off are shares of the updates, at least 0 and at most 1 in "
                f"sum, got sampled={self.sampled}, off={self.off}"
            )

    def __call__(self, progress: float, draw: object = None, stream: str = "") -> float:
        """Return the fraction of the final rate at `progress`, which is clamped to [0, 1].

        Args:
            progress: completed updates over all updates.
            draw: keys the draws of `sampled` and `off`, for instance (seed, update); None to key
                them by the progress.
            stream: names independent draws for the same `draw`.
        """
        time = min(1.0, max(0.0, (progress - self.begin) / (self.end - self.begin)))
        ramp = self.initial + (1 - self.initial) * SHAPES[self.shape](time)
        return ramp * self._share(_drawn(progress, draw, stream))

    def _share(self, drawn: float) -> float:
        """Return the share of the ramp in an update that drew a number in [0, 1)."""
        if drawn < self.off:
            return 0.0
        return min(1.0, (drawn - self.off) / self.sampled) if self.sampled else 1.0

    @classmethod
    def parse(cls, value: Schedule | str | Mapping[str, Any]) -> Schedule:
        """Return a schedule, given as itself, by the name of a shape, or in its JSON form."""
        if isinstance(value, Schedule):
            return value
        if isinstance(value, str):
            return cls(shape=value)
        if not isinstance(value, Mapping):
            raise TypeError(
                "a schedule is a Schedule, its JSON form, or the name of one of the shapes "
                f"{sorted(SHAPES)}, got {value!r}"
            )
        unknown = sorted(set(value) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(
                f"unknown schedule keys {unknown}; known are {sorted(cls.__dataclass_fields__)}"
            )
        return cls(**value)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def _drawn(progress: float, draw: object, stream: str) -> float:
    """Return a number in [0, 1) that is a function of the arguments."""
    key = min(1.0, max(0.0, progress)).hex() if draw is None else repr(draw)
    return random.Random(stream + key).random()
