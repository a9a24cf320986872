"""Shows how much of a whole job is done, and forecasts the time that is left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import datasets
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging

_FORMAT = "{percentage:3.0f}%|{bar}| {desc}"
_PAUSE = 0.2  # seconds between two redraws
EXPORT_SECONDS = 20.0  # guess for an export with its check, while none was measured


@dataclass(kw_only=True)
class Part:
    """Work of one kind, such as the trainings of all seeds.

    Attributes:
        units: units that are not done yet.
        rows: rows of the data that a unit computes; says how long a unit takes, next to others,
            while none was measured.
        guess: seconds of a unit that computes no rows, while none was measured.
    """

    units: float
    rows: float = 0.0
    guess: float = 0.0
    done: float = field(default=0.0, init=False)
    seconds: float = field(default=0.0, init=False)


class Job:
    """A job whose parts are known beforehand: one line on stderr, with the time left for all.

    The forecast takes each part at its measured speed. A part that has not begun is taken at the
    speed of the others, by its rows. Nothing is drawn where stderr is no terminal.

    Args:
        parts: the work by the name of its kind; the names are shown.
        shown: False draws nothing.
        clock: returns seconds.
    """

    def __init__(
        self,
        parts: Mapping[str, Part],
        *,
        shown: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.parts = dict(parts)
        self._clock = clock
        self._begun = self._last = clock()
        self._drawn = float("-inf")
        self._label = ""
        drawn = shown and sys.stderr.isatty()
        self._bar: Any = tqdm(total=1, bar_format=_FORMAT, dynamic_ncols=True, disable=not drawn)

    def begin(self, kind: str, label: str) -> None:
        """Show a part, after a label such as the seed."""
        self._label, self._drawn = label, float("-inf")
        self._draw(kind)

    def expect(self, kind: str, units: float) -> None:
        """Add units of a kind that turned out to be needed; a no-op if some are known already."""
        part = self.parts[kind]
        if not (part.units or part.done):
            part.units = units

    def advance(self, kind: str, units: float) -> None:
        """Note that units of a kind were computed since the last call."""
        part, now = self.parts[kind], self._clock()
        part.seconds += now - self._last
        part.done += units
        self._last = now
        self.skip(kind, units)

    def skip(self, kind: str, units: float) -> None:
        """Note that units of a kind need not be computed."""
        part = self.parts[kind]
        part.units = max(part.units - units, 0.0)
        self._draw(kind)

    def left(self) -> float | None:
        """Return the seconds that are left; None while nothing was measured."""
        rows = sum(part.done * part.rows for part in self.parts.values())
        if not rows and not all(p.done or p.guess or not p.units for p in self.parts.values()):
            return None
        spent = sum(part.seconds for part in self.parts.values() if part.rows)
        pace = spent / rows if rows else 0.0
        return sum(part.units * _speed(part, pace) for part in self.parts.values())

    def close(self) -> None:
        """Remove the line."""
        self._bar.leave = False
        self._bar.close()

    def _draw(self, kind: str) -> None:
        if self._bar.disable or self._last - self._drawn < _PAUSE:
            return
        left, gone = self.left(), self._last - self._begun
        self._drawn = self._last
        text = [self._label, kind, f"{tqdm.format_interval(gone)} gone"]
        if left is not None:
            self._bar.n = gone / max(gone + left, 1e-9)
            text.append(f"{tqdm.format_interval(left)} left")
        self._bar.set_description_str(", ".join(filter(None, text)), refresh=False)
        self._bar.refresh()


def _speed(part: Part, pace: float) -> float:
    """Return the seconds of a unit."""
    return part.seconds / part.done if part.done else part.rows * pace + part.guess


def say(line: str) -> None:
    """Print a line on stdout, above the lines of progress."""
    with tqdm.external_write_mode():
        print(line, flush=True)


@contextmanager
def showing_bars(shown: bool) -> Iterator[None]:
    """Hide the bars of transformers and datasets unless `shown` and stderr is a terminal."""
    before = transformers_logging.is_progress_bar_enabled()
    rows_before = datasets.are_progress_bars_disabled()
    if not (shown and sys.stderr.isatty()):
        transformers_logging.disable_progress_bar()
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if before:
            transformers_logging.enable_progress_bar()
        if not rows_before:
            datasets.enable_progress_bars()
