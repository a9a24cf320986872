"""Read the lines of a sweep into tables: for each task and level a row for each method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sklearn.metrics import auc

from hf_td.files import read_json_lines
from hf_td.tasks.errors import UsageError
from hf_td.tasks.experiment.methods import METHODS
from hf_td.tasks.experiment.results import is_finite, spread_of, summarise
from lab.sweeps.grid import title_of
from lab.sweeps.workers import Line

Spread = dict[str, float] | None


@dataclass(frozen=True)
class Row:
    """A method, or a variant of it, at a task and a level.

    Attributes:
        label: the name of the method in tables.
        lines: of its seeds.
        knobs: the arguments of a variant.
        is_default: True for a variant that is also in the grid.
    """

    label: str
    lines: Sequence[Line]
    knobs: Mapping[str, Any]
    is_default: bool = True

    @property
    def is_targeted_dropout(self) -> bool:
        """Return True for targeted dropout."""
        return self.lines[0]["method"] == "targeted_dropout"

    @property
    def points(self) -> dict[float, Spread]:
        """Return the metric over the seeds at each sparsity; None where one is not finite."""
        metric = self.lines[0]["metric"]
        return {p["sparsity"]: p["metrics"][metric] for p in summarise(self.lines)}

    @property
    def curves(self) -> list[dict[float, float]]:
        """Return for each seed the metric at each sparsity, where it is finite."""
        curves = [{s: v for s, v in curve.items() if is_finite(v)} for curve in self._curves()]
        return [curve for curve in curves if curve]

    @property
    def area(self) -> Spread:
        """Return the area under the curve over the seeds, from `area_under`."""
        return spread_of([area_under(curve) for curve in self._curves()])

    def _curves(self) -> list[dict[float, float | None]]:
        return [
            {p["sparsity"]: p["metrics"][line["metric"]] for p in line["curve"]}
            for line in self.lines
        ]


@dataclass(frozen=True)
class Table:
    """The methods at one task and level, or the variants of their knobs.

    Attributes:
        task: name of the task in the sweep.
        level: name of the level.
        rows: of methods that have a line.
        missing: methods with a cell that failed or did not run yet, with its seeds.
    """

    task: str
    level: str
    rows: Sequence[Row]
    missing: Sequence[str]

    @property
    def name(self) -> str:
        """Return the name of the table in file names."""
        return f"{self.task}-{self.level}"

    @property
    def first(self) -> Line:
        """Return a line, for the facts that all lines of a table share."""
        return self.rows[0].lines[0]

    @property
    def lower_is_better(self) -> bool:
        """Return True if a good model has a low metric."""
        return self.first["lower_is_better"]

    @property
    def sparsities(self) -> list[float]:
        """Return the sparsities that were measured."""
        return sorted({s for row in self.rows for s in row.points})

    @property
    def areas(self) -> list[tuple[Row, Spread]]:
        """Return the areas of the rows that were measured at every sparsity.

        Areas over different ranges of sparsities do not compare.
        """
        everywhere = set(self.sparsities)
        return [(row, row.area) for row in self.rows if set(row.points) == everywhere]

    def best(self, spreads: Sequence[Spread]) -> Spread:
        """Return the spread with the best mean."""
        known = [spread for spread in spreads if spread is not None]
        choose = min if self.lower_is_better else max
        return choose(known, key=lambda spread: spread["mean"], default=None)

    def is_behind(self, spread: Spread, best: Spread) -> bool:
        """Return True if a mean is worse than the best by more than the larger deviation."""
        if spread is None or best is None:
            return spread is not best
        behind = spread["mean"] - best["mean"]
        return (behind if self.lower_is_better else -behind) > max(spread["std"], best["std"])


@dataclass(frozen=True)
class Report:
    """The results of a sweep.

    Attributes:
        title: of the sweep.
        tables: of the grid.
        knobs: tables of the variants.
        plan: the line with the cell of each place.
        lines: the last line of each cell of the plan.
    """

    title: str
    tables: Sequence[Table]
    knobs: Sequence[Table]
    plan: Line
    lines: Sequence[Line]

    @property
    def labels(self) -> list[str]:
        """Return the labels of all methods, in order."""
        tables = [*self.tables, *self.knobs]
        return list(dict.fromkeys(row.label for table in tables for row in table.rows))

    @property
    def finished(self) -> list[Line]:
        """Return the lines of cells that did not fail."""
        return [line for line in self.lines if _is_fine(line)]


def area_under(curve: Mapping[float, float | None]) -> float | None:
    """Return the area under a curve over the range of its sparsities: the mean metric.

    The curve is straight between its points. The area is None where a point is not finite.

    >>> area_under({0.0: 1.0, 0.5: 1.0, 1.0: 0.0})
    0.75
    """
    values = [curve[sparsity] for sparsity in sorted(curve)]
    known = [value for value in values if is_finite(value)]
    if len(known) < len(values) or len(values) < 2:
        return known[0] if len(values) == len(known) == 1 else None
    return float(auc(sorted(curve), known)) / (max(curve) - min(curve))


def read_report(paths: Sequence[Path]) -> Report:
    """Read files of lines: the last plan, and the last line of each of its cells.

    Raises:
        UsageError: a file is missing, or none holds a plan and a finished cell of it, or a line is
            not as scripts/sweep.py writes it.
    """
    try:
        lines = [line for path in paths for line in read_json_lines(path)]
    except OSError as error:
        raise UsageError(
            f"There are no lines of a sweep: {error}. Give the cells.jsonl of a sweep."
        ) from error
    names = [str(path) for path in paths]
    try:
        return _report(lines, names)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UsageError(
            f"{names} hold a line that scripts/sweep.py does not write ({type(error).__name__}: "
            f"{error}). Give the cells.jsonl of a sweep."
        ) from error


def _report(lines: Sequence[Line], files: Sequence[str]) -> Report:
    """Return the report of lines; their files are named where none is finished."""
    plans = [line for line in lines if "plan" in line]
    ended = {line["cell"]: line for line in lines if "cell" in line}
    places = plans[-1]["plan"] if plans else []
    planned = {place["cell"] for place in places}
    if not any(_is_fine(ended.get(name)) for name in planned):
        raise UsageError(
            f"{files} hold no finished cell of a plan. A page needs at "
            "least one. Run scripts/sweep.py until a cell is finished."
        )
    tables = {
        part: list(_tables([p for p in places if p["part"] == part], places, ended))
        for part in ("grid", "knobs")
    }
    shown = [line for name, line in ended.items() if name in planned]
    return Report(plans[-1]["title"], tables["grid"], tables["knobs"], plans[-1], shown)


def _is_fine(line: Line | None) -> bool:
    return line is not None and "error" not in line


def _tables(
    places: Sequence[Line], all_places: Sequence[Line], ended: Mapping[str, Line]
) -> Iterator[Table]:
    methods = list(dict.fromkeys(place["method"] for place in all_places))
    in_grid = {place["cell"] for place in all_places if place["part"] == "grid"}
    for task, level in dict.fromkeys((p["task"], p["level"]) for p in places):
        here = [p for p in places if (p["task"], p["level"]) == (task, level)]
        here.sort(key=lambda place: (methods.index(place["method"]), place["seed"]))
        rows = list(_rows(here, ended, in_grid))
        if rows:
            yield Table(task, level, rows, _missing(here, ended))


def _rows(places: Sequence[Line], ended: Mapping[str, Line], in_grid: set[str]) -> Iterator[Row]:
    """Yield a row for each method or variant that has a finished cell."""
    groups: dict[str, list[Line]] = {}
    for place in places:
        if _is_fine(ended.get(place["cell"])):
            groups.setdefault(repr((place["method"], place["knobs"])), []).append(place)
    for found in groups.values():
        default = any(place["cell"] in in_grid for place in found)
        lines = [ended[place["cell"]] for place in found]
        yield Row(_label(found[0], lines[0]), lines, found[0]["knobs"], default)


def _label(place: Line, line: Line) -> str:
    """Return the label in the file, or that of the method, or the name of the row."""
    if place["label"]:
        return place["label"]
    own = place["method"] == line["method"]
    return METHODS[line["method"]].label if own else place["method"].replace("_", " ")


def _missing(places: Sequence[Line], ended: Mapping[str, Line]) -> list[str]:
    """Return the methods with an open or failed cell, with the seeds that share a reason."""
    seeds: dict[tuple[str, str], list[str]] = {}
    for place in places:
        if not _is_fine(line := ended.get(place["cell"])):
            why = "not run yet" if line is None else line["error"].splitlines()[0]
            title = title_of(place["method"], place["knobs"])
            seeds.setdefault((title, why), []).append(str(place["seed"]))
    return [
        f"{title} seed{'s' * (len(found) > 1)} {', '.join(found)}: {why}"
        for (title, why), found in seeds.items()
    ]
