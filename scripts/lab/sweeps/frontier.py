"""The part of a sweep's page on what is lost for a speed, and for a size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from hf_td.analysis.metrics import metric_label
from hf_td.analysis.plots import plot_lines
from hf_td.analysis.tables import markdown_table
from hf_td.tasks.experiment.results import cell
from lab.sweeps.report import Row, Table

_HEADING = """\
## What a speed and a size cost

Measured with `--measure_costs`: the pruned model, as it would be exported, took turns with the
dense one in a forward of 8 rows. MB are those of all weights. Figures are means over the seeds.
"""


@dataclass(frozen=True)
class Point:
    """A row at one sparsity.

    Attributes:
        sparsity: that was asked for.
        metric: mean over the seeds.
        shown: the metric as tables have it, with its deviation.
        megabytes: of the weights.
        speedup: how many times as fast as the dense model; the mean over the seeds.
    """

    sparsity: float
    metric: float
    shown: str
    megabytes: float
    speedup: float


def frontier_section(tables: Sequence[Table], stem: Path) -> Iterator[str]:
    """Yield a table and two plots for each task whose cells measured costs.

    Args:
        tables: of the grid.
        stem: path without a suffix, from which the plots get their names.
    """
    by_task: dict[str, dict[str, list[Point]]] = {}
    for table in tables:
        for row in table.rows:
            if points := list(points_of(row)):
                name = f"{row.label}, {table.level}"
                by_task.setdefault(table.task, {})[name] = points
    if by_task:
        yield _HEADING
    for task, rows in by_task.items():
        first = next(table.first for table in tables if table.task == task)
        label = metric_label(first["metric"], lower_is_better=first["lower_is_better"])
        yield f"### {task}\n"
        yield _table(rows, label)
        for kind, words in (("speed", "times as fast as dense"), ("size", "MB of weights")):
            lines = {name: _line(points, kind) for name, points in rows.items()}
            name = stem.with_name(f"{stem.name}-{task}-{kind}")
            plot_lines(lines, name, x=words, y=label)
            about = f"{task}: {label} against {words}. The table has every value."
            yield f"![{about}]({name.name}.png)\n"


def points_of(row: Row) -> Iterator[Point]:
    """Yield a point for each sparsity whose costs every seed measured."""
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
                fmean(_speedup(cost["latency"]) for cost in costs),
            )


def _speedup(latency: Mapping[str, Mapping[str, float]]) -> float:
    return latency["dense"]["median"] / latency["compact"]["median"]


def _line(points: Sequence[Point], kind: str) -> dict[float, float]:
    return {p.speedup if kind == "speed" else p.megabytes: p.metric for p in points}


def _table(rows: Mapping[str, Sequence[Point]], label: str) -> str:
    heads = ["", "pruned", "times as fast", "MB", label]
    cells = [
        [
            name,
            f"{point.sparsity:.0%}",
            f"{point.speedup:.2f}",
            f"{point.megabytes:.1f}",
            point.shown,
        ]
        for name, points in rows.items()
        for point in points
    ]
    return markdown_table(heads, cells) + "\n"
