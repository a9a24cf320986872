"""Puts experiments on the same task side by side: one table, one plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from hf_td.analysis.plots import plot_curves
from hf_td.experiment.methods import METHODS
from hf_td.experiment.results import Results, cell, curves_of


def comparison_table(experiments: Sequence[Results], caption: str | None = None) -> Table:
    """For `rich.print`: a line for each sparsity, a column with the metric for each method."""
    first = experiments[0]
    name = first["metric"]
    title = f"{first['task']}: {name.replace('_', ' ')} after pruning"
    table = Table(title=title, caption=caption)
    for head in ("sparsity", "of all parameters", *(_label(e) for e in experiments)):
        table.add_column(head, justify="right")
    for points in zip(*(e["summary"] for e in experiments), strict=True):
        values = [cell(point["metrics"][name], point["seeds"]) for point in points]
        shares = f"{points[0]['sparsity']:.0%}", f"{points[0]['removed_of_all']:.0%}"
        table.add_row(*shares, *values)
    return table


def plot_comparison(experiments: Sequence[Results], stem: Path, title: str) -> tuple[Path, Path]:
    """Plot the curves of all methods; returns the paths of the PNG and the SVG."""
    curves = {_label(experiment): curves_of(experiment) for experiment in experiments}
    return plot_curves(curves, stem, metric=experiments[0]["metric"], title=title)


def size_on_disk(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _label(experiment: Results) -> str:
    return METHODS[experiment["method"]].label
