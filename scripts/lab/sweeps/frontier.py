"""The part of a sweep's page on what is lost for a speed, and for a size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from hf_td.analysis.looks import looks_of
from hf_td.analysis.metrics import metric_label
from hf_td.analysis.plots import write_figure
from hf_td.analysis.tables import markdown_table
from hf_td.tasks.experiment.results import cell
from lab.sweeps.report import Row, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEADING = """\
## What a speed and a size cost

Measured with `--measure_costs`: the pruned model, as it would be exported, took turns with the
dense one in a forward of 8 rows. MB are those of all weights. Figures are means over the seeds. A
model that was smaller from the start was timed against itself, and has no speed here.
"""


@dataclass(frozen=True)
class Point:
    """A row at one sparsity.

    Attributes:
        sparsity: that was asked for.
        metric: mean over the seeds.
        shown: the metric as tables have it, with its deviation.
        megabytes: of the weights.
        speedup: how many times as fast as the dense model; the mean over the seeds. None where the
            dense model is smaller than that of other rows.
    """

    sparsity: float
    metric: float
    shown: str
    megabytes: float
    speedup: float | None


def frontier_section(tables: Sequence[Table], stem: Path) -> Iterator[str]:
    """Yield a table and two plots for each task whose cells measured costs.

    Args:
        tables: of the grid.
        stem: path without a suffix, from which the plots get their names.
    """
    by_task: dict[str, dict[str, list[Point]]] = {}
    for table in tables:
        whole = max((size for t in tables if t.task == table.task for size in _sizes(t)), default=0)
        for row in table.rows:
            if points := list(points_of(row, whole)):
                name = f"{table.level}: {row.label}"
                by_task.setdefault(table.task, {})[name] = points
    if by_task:
        yield _HEADING
    for task, rows in by_task.items():
        first = next(table.first for table in tables if table.task == task)
        label = metric_label(first["metric"], lower_is_better=first["lower_is_better"])
        yield f"### {task}\n"
        yield _table(rows, label)
        for kind, words in (("speed", "times as fast as dense"), ("size", "MB of weights")):
            lines = {name: line for name, points in rows.items() if (line := _line(points, kind))}
            name = stem.with_name(f"{stem.name}-{task}-{kind}")
            write_figure(partial(_draw, lines, words, label), name)
            about = f"{task}: {label} against {words}. The table has every value."
            yield f"![{about}]({name.name}.png)\n"


def _sizes(table: Table) -> Iterator[int]:
    """Yield the bytes of the models that cells begin with."""
    for row in table.rows:
        for line in row.lines:
            yield from (cost["bytes"] for cost in line.get("costs", ()) if not cost["sparsity"])


def points_of(row: Row, whole: int) -> Iterator[Point]:
    """Yield a point for each sparsity whose costs every seed measured.

    Args:
        row: of a table.
        whole: bytes of the largest model that a row of the task begins with.
    """
    starts = {c["bytes"] for line in row.lines for c in line.get("costs", ()) if not c["sparsity"]}
    for sparsity, spread in row.points.items():
        costs = [
            cost
            for line in row.lines
            for cost in line.get("costs", ())
            if cost["sparsity"] == sparsity
        ]
        if spread is not None and len(costs) == len(row.lines):
            yield Point(
                sparsity,
                spread["mean"],
                cell(spread, len(row.lines)),
                fmean(cost["bytes"] for cost in costs) / 1e6,
                fmean(_speedup(c["latency"]) for c in costs) if starts == {whole} else None,
            )


def _speedup(latency: Mapping[str, Mapping[str, float]]) -> float:
    return latency["dense"]["median"] / latency["compact"]["median"]


def _line(points: Sequence[Point], kind: str) -> dict[float, float]:
    if kind == "size":
        return {p.megabytes: p.metric for p in points}
    return {p.speedup: p.metric for p in points if p.speedup is not None}


def _table(rows: Mapping[str, Sequence[Point]], label: str) -> str:
    heads = ["", "pruned", "times as fast", "MB", label]
    cells = [
        [
            name,
            f"{point.sparsity:.0%}",
            "" if point.speedup is None else f"{point.speedup:.2f}",
            f"{point.megabytes:.1f}",
            point.shown,
        ]
        for name, points in rows.items()
        for point in points
    ]
    return markdown_table(heads, cells) + "\n"


def _draw(lines: Mapping[str, Mapping[float, float]], x: str, y: str) -> Figure:
    """Draw a line for each row, with its legend beside it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 4.2), layout="constrained")
    axes = figure.add_subplot(xlabel=x, ylabel=y)
    looks = looks_of(list(lines))
    for name, line in lines.items():
        places, values = zip(*sorted(line.items()), strict=True)
        axes.plot(places, values, label=name, **looks[name].line)
    axes.grid(color="#dddddd")
    figure.legend(loc="outside right upper", frameon=False)
    return figure
