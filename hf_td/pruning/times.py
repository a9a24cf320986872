"""A table of measured times: what heads and neurons cost on one machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_td.anatomy import Block
from hf_td.anatomy.blocks import pattern_of
from hf_td.files import read_json, write_json


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
            values = read_json(file)
            curves = tuple(Curve(**_tuples(curve)) for curve in values.pop("curves"))
            return cls(curves=curves, **_tuples(values))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
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


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
