"""Schedules: pure functions from progress in [0, 1] to a fraction of the final rate.

Progress is completed updates over all updates. A schedule has no state, so a resumed run
follows the same path as one that was never interrupted.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

Shape = Callable[[float], float]


def _piecewise(t: float) -> float:
    """The paper's ramp of the targeting: 95 % of the way in the first half, the rest after."""
    return 0.95 * min(1.0, 2 * t) + 0.05 * max(0.0, 2 * t - 1)


# How far the ramp has come after the fraction t in [0, 1] of its length. A new shape is a new row.
SHAPES: dict[str, Shape] = {
    "constant": lambda t: 1.0,
    "linear": lambda t: t,
    "cosine": lambda t: (1 - math.cos(math.pi * t)) / 2,
    "cubic": lambda t: 1 - (1 - t) ** 3,
    "piecewise": _piecewise,
}


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a rate approaches its final value.

    Attributes:
        shape: one of `SHAPES`.
        initial: fraction of the final rate at the start of the ramp, in [0, 1].
        begin: progress at which the ramp starts, in [0, 1).
        end: progress at which the ramp ends, in (begin, 1].
        sampled: share of the updates at which the rate is drawn afresh from [0, ramp]; with 1 one
            run trains the network for every rate up to the final one.
        off: share of the updates at which the rate is 0: dense updates, which keep the whole
            network good.
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
                "a schedule ramps from begin to end, fractions of the run with 0 <= begin < end "
                f"<= 1, got begin={self.begin}, end={self.end}; a ramp that ends after 1 would "
                "outlast the run and never reach its final rate"
            )
        if not (self.sampled >= 0 and self.off >= 0 and self.sampled + self.off <= 1):
            raise ValueError(
                "schedule sampled and off are shares of the updates, at least 0 and at most 1 in "
                f"sum, got sampled={self.sampled}, off={self.off}"
            )

    def __call__(self, progress: float, draw: object = None, stream: str = "") -> float:
        """The fraction of the final rate at `progress`, which is clamped to [0, 1].

        Args:
            progress: completed updates over all updates.
            draw: what the draws of `sampled` and `off` are a function of, for instance (seed,
                update); the progress where it is None.
            stream: a name; of the same `draw` those of different streams are independent.
        """
        ramp = self.initial + (1 - self.initial) * SHAPES[self.shape](self._ramp_time(progress))
        return ramp * self._share(_place(progress, draw, stream))

    def _share(self, place: float) -> float:
        """Which part of the ramp an update has, given its place in [0, 1): 0, some, or all."""
        if place < self.off:
            return 0.0
        return min(1.0, (place - self.off) / self.sampled) if self.sampled else 1.0

    def _ramp_time(self, progress: float) -> float:
        return min(1.0, max(0.0, (progress - self.begin) / (self.end - self.begin)))

    @classmethod
    def parse(cls, value: Schedule | str | Mapping[str, Any]) -> Schedule:
        """A schedule from itself, from the name of a shape, or from its JSON form."""
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
        """The JSON form."""
        return asdict(self)


def _place(progress: float, draw: object, stream: str = "") -> float:
    """A number in [0, 1) that is a function of what the draws are."""
    key = min(1.0, max(0.0, progress)).hex() if draw is None else repr(draw)
    return random.Random(stream + key).random()
