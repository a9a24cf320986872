"""The recorded values that a page shows. None stands for what was not measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

# The names of the units of each part.
PARTS = {
    "attention": "heads",
    "feed_forward": "neurons",
    "experts": "experts",
    "layers": "layers",
}


@dataclass(frozen=True, kw_only=True)
class Units:
    """The units of one block, as the mean over the seeds.

    Attributes:
        block: dotted name.
        part: `attention`, `feed_forward`, `experts` or `layers`.
        kept: units that stay; with several seeds it can be a fraction.
        total: all units.
    """

    block: str
    part: str
    kept: float
    total: int


@dataclass(frozen=True, kw_only=True)
class Point:
    """What was measured at one sparsity.

    Attributes:
        sparsity: the fraction asked for, in [0, 1].
        removed_prunable: the removed fraction of the prunable weights.
        removed_of_all: the removed fraction of all parameters.
        metric: the finite values of the metric, one for each seed.
        parameters: of what would be exported.
        bytes: of its weights.
        milliseconds: of a forward of it, the median.
        dense_milliseconds: of a forward with the full widths, measured in turn with it.
        units: of each block.
    """

    sparsity: float
    removed_prunable: float
    removed_of_all: float
    metric: tuple[float, ...]
    parameters: float | None = None
    bytes: float | None = None
    milliseconds: float | None = None
    dense_milliseconds: float | None = None
    units: tuple[Units, ...] = ()

    @property
    def mean(self) -> float | None:
        """The mean of the metric over the seeds."""
        return fmean(self.metric) if self.metric else None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A logged update.

    Attributes:
        step: number of completed updates.
        values: `loss`, `targeting`, `drop_rate` and others, by name.
    """

    step: int
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One run, of one or several seeds.

    Attributes:
        label: its name, unique on a page.
        seeds: of the run.
        points: by rising sparsity.
        curves: for each seed the metric by sparsity, where it is finite.
        log: the logged updates of the first seed.
        timing: conditions of the measured speed, in words; None if it was not measured.
        facts: the origin of the figures, from a heading to a text.
        notes: sentences on what a reader should know before believing the figures.
    """

    label: str
    seeds: tuple[int, ...]
    points: tuple[Point, ...]
    curves: tuple[Mapping[float, float], ...]
    log: tuple[Entry, ...] = ()
    timing: str | None = None
    facts: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def at(self, sparsity: float) -> Point | None:
        """Return the point at a sparsity, or None."""
        return next((point for point in self.points if point.sparsity == sparsity), None)

    @property
    def dense(self) -> Point | None:
        """The point at which nothing is removed, or None."""
        return self.at(0.0)


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that a page shows.

    Attributes:
        title: of the page.
        task: that was measured.
        split: of the data that was measured on.
        metric: name of the metric.
        lower_is_better: True for a metric such as a perplexity.
        series: the runs, in order.

    Raises:
        ValueError: there is no run, a run has no point, or two have one label.
    """

    title: str
    task: str
    split: str
    metric: str
    lower_is_better: bool
    series: tuple[Series, ...]

    def __post_init__(self) -> None:
        labels = [series.label for series in self.series]
        empty = [series.label for series in self.series if not series.points]
        if empty or not labels:
            raise ValueError(
                f"no sparsity was measured for {', '.join(empty) or 'any run'}, and a page needs "
                "one. Finish the run: the same command goes on with it"
            )
        if len(set(labels)) < len(labels):
            raise ValueError(f"the labels of runs have to differ, got {labels}")

    @property
    def sparsities(self) -> list[float]:
        """All measured sparsities, rising."""
        return sorted({point.sparsity for series in self.series for point in series.points})


def has_units(points: Sequence[Point]) -> bool:
    """Return True if a unit was removed at one of these points."""
    return any(units.kept < units.total for point in points for units in point.units)


def kept_units(points: Sequence[Point]) -> dict[str, list[list[tuple[float, int]]]]:
    """Return for each part and each of its blocks the kept and all units at each sparsity."""
    names = dict.fromkeys((units.part, units.block) for p in points for units in p.units)
    by_point = [{(u.part, u.block): (u.kept, u.total) for u in p.units} for p in points]
    totals = {name: total for found in by_point for name, (_, total) in found.items()}
    parts: dict[str, list[list[tuple[float, int]]]] = {}
    for name in names:
        # A stack of layers is counted only where it has lost some.
        row = [found.get(name, (float(totals[name]), totals[name])) for found in by_point]
        parts.setdefault(name[0], []).append(row)
    return parts
