"""A table of measured times: what heads and neurons cost on one machine."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_td.anatomy import Block
from hf_td.anatomy.blocks import pattern_of
from hf_td.files import read_json_object, write_json

# The largest number in a table that is read: a curve is written out for every number of units.
_MOST = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The time of a block by its number of units.

    Attributes:
        block: name of the block, with `#` for every index.
        part: `attention` or `feed_forward`.
        units: number of units of the whole block.
        blocks: number of such blocks in the model.
        counts: the numbers of units that were measured, rising; the last is `units`.
        milliseconds: the time of one block beyond that of the fewest units, for each count.
    """

    block: str
    part: str
    units: int
    blocks: int
    counts: tuple[int, ...]
    milliseconds: tuple[float, ...]

    @property
    def whole(self) -> float:
        """Milliseconds of the whole block beyond that of the fewest units."""
        return self.milliseconds[-1]

    def by_count(self) -> Tensor:
        """Return the milliseconds at 0 to `units` units, `(units + 1,)`, float64.

        Between two measured counts the time is interpolated. Below the fewest it is zero.
        """
        found = torch.zeros(self.units + 1, dtype=torch.float64)
        points = list(zip(self.counts, self.milliseconds, strict=True))
        for (low, before), (high, after) in pairwise(points):
            found[low : high + 1] = torch.linspace(before, after, high - low + 1).double()
        return found


@dataclass(frozen=True, kw_only=True)
class Times:
    """The times of a model's forward, measured on one machine by `measure_times`.

    Attributes:
        whole: milliseconds of a forward of the whole model.
        curves: one for all blocks that differ only in the index of their layer.
        shape: shape of the main input, such as (batch, length).
        dtype: of the weights.
        device: type of the device, such as `cpu`.
        threads: number of threads of torch.
        hardware: name of the GPU, or of the CPU.
        environment: versions, hardware and commit, as for recorded results.
    """

    whole: float
    curves: tuple[Curve, ...]
    shape: tuple[int, ...]
    dtype: str
    device: str
    threads: int
    hardware: str
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rest(self) -> float:
        """Milliseconds of a forward with the fewest units in every block."""
        return self.whole - sum(curve.whole * curve.blocks for curve in self.curves)

    def curve_of(self, block: Block) -> Curve:
        """Return the curve of a block.

        Raises:
            ValueError: the table has none.
        """
        wanted = pattern_of(block.name), block.part, block.units
        for curve in self.curves:
            if (curve.block, curve.part, curve.units) == wanted:
                return curve
        known = ", ".join(f"{c.block} ({c.part}, {c.units} units)" for c in self.curves)
        raise ValueError(
            f"the table of times has no {wanted[0]} ({block.part}, {block.units} units). It has "
            f"{known or 'no block'}. Measure this model by measure_times"
        )

    def forward(self, counts: Sequence[tuple[Block, int]]) -> float:
        """Return the estimated milliseconds of a forward with so many units in these blocks.

        A block that is not listed is whole.
        """
        curves = [(self.curve_of(block), count) for block, count in counts]
        saved = (curve.whole - float(curve.by_count()[count]) for curve, count in curves)
        return self.whole - sum(saved)

    def save(self, file: str | Path) -> None:
        """Write the table as JSON."""
        write_json(file, asdict(self))

    @classmethod
    def load(cls, file: str | Path) -> Times:
        """Return the table that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file holds no table of times.
        """
        try:
            values = _checked({"environment": {}, **read_json_object(file)}, _TIMES, "the table")
            curves = tuple(map(_read_curve, values.pop("curves")))
            return cls(curves=curves, **values)
        except FileNotFoundError:
            raise
        except ValueError as error:
            raise ValueError(
                f"{file} holds no table of times: {error}. Write one by measure_times(...).save"
            ) from error

    def __str__(self) -> str:
        """Return a line for each curve, and the rest."""
        where = f"{self.hardware}, {self.dtype}, {self.threads} threads"
        lines = [f"{self.whole:.2f} ms a forward of {list(self.shape)} ({where})"]
        for curve in self.curves:
            points = zip(curve.counts, curve.milliseconds, strict=True)
            shown = ", ".join(f"{count}: {time:.3f}" for count, time in points)
            lines.append(f"{curve.blocks} x {curve.block} ({curve.part}): {shown}")
        return "\n".join([*lines, f"the rest: {self.rest:.2f} ms"])


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MOST


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MOST


def _all(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) > 0 and all(map(fits, value))


# The entries of a table and of a curve in it: a test of the value, and words for what it should be.
Kind = tuple[Callable[[Any], bool], str]
_TEXT: Kind = (lambda value: isinstance(value, str), "a text")
_COUNT: Kind = (_is_count, f"a whole number from 1 to {_MOST}")
_COUNTS: Kind = (_all(_is_count), "a list of whole numbers above zero")
_TIME: Kind = (_is_time, "a number of milliseconds")
_TIMES: dict[str, Kind] = {
    "whole": _TIME,
    "curves": (lambda value: isinstance(value, list), "a list of curves"),
    "shape": _COUNTS,
    "dtype": _TEXT,
    "device": _TEXT,
    "threads": _COUNT,
    "hardware": _TEXT,
    "environment": (lambda value: isinstance(value, dict), "a mapping"),
}
_CURVE: dict[str, Kind] = {
    "block": _TEXT,
    "part": _TEXT,
    "units": _COUNT,
    "blocks": _COUNT,
    "counts": _COUNTS,
    "milliseconds": (_all(_is_time), "a list of milliseconds"),
}


def _checked(values: Any, kinds: Mapping[str, Kind], what: str) -> dict[str, Any]:
    """Return the entries of a mapping, lists of numbers as tuples, if they are of these kinds."""
    if not isinstance(values, dict) or values.keys() != kinds.keys():
        raise ValueError(f"{what} should have {sorted(kinds)}, got {reprlib.repr(values)}")
    for name, (fits, wanted) in kinds.items():
        if not fits(values[name]):
            got = reprlib.repr(values[name])
            raise ValueError(f"{name} of {what} should be {wanted}, got {got}")
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}


def _read_curve(values: Any) -> Curve:
    curve = Curve(**_checked(values, _CURVE, "a curve"))
    rising = list(curve.counts) == sorted({*curve.counts})
    if not rising or curve.counts[-1] != curve.units:
        raise ValueError(
            f"counts of a curve should rise to its units {curve.units}, got "
            f"{reprlib.repr(curve.counts)}"
        )
    if len(curve.counts) != len(curve.milliseconds):
        raise ValueError(
            f"a curve should have a time for each of {len(curve.counts)} counts, got "
            f"{len(curve.milliseconds)}"
        )
    return curve
