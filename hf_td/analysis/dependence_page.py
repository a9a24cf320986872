"""Formats the dependence diagnostic of several models side by side: tables and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_td.analysis.dependence import Dependence
from hf_td.analysis.looks import COLOURS
from hf_td.analysis.plots import write_figure
from hf_td.analysis.tables import markdown_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# From the label of a model to its measurements, one for each sparsity; all have the same ones.
Measured = Mapping[str, Sequence[Dependence]]

_BARS = {
    "linear": "linear: -g·d",
    "within": "its own curvature: ½ d·Hd of the block",
    "between": "curvature with other blocks",
}


def dependence_record(measured: Measured) -> list[dict[str, Any]]:
    """Return all measurements as JSON values."""
    return [
        {"model": label, **asdict(found), "predicted": found.predicted, "true": found.true}
        for label, of_model in measured.items()
        for found in of_model
    ]


def dependence_tables(measured: Measured) -> str:
    """Return Markdown for each sparsity: a table of the models, and one of the blocks of each."""
    parts = []
    for place, sparsity in enumerate(_sparsities(measured)):
        models = {label: found[place] for label, found in measured.items()}
        parts += [f"## {sparsity:.0%} removed\n", _totals(models)]
        parts += [_blocks(label, found) for label, found in models.items()]
    return "\n".join(parts)


def _sparsities(measured: Measured) -> list[float]:
    return [found.sparsity for found in next(iter(measured.values()))]


def _totals(models: Mapping[str, Dependence]) -> str:
    heads = ["", "loss", "linear", "self", "predicted change", "true change", "cross with kept"]
    rows = []
    for label, found in models.items():
        total = found.total
        figures = [total.linear, total.curvature, found.predicted, found.true, total.kept]
        rows.append([label, f"{found.loss:.4f}", *(f"{value:+.4f}" for value in figures)])
    return markdown_table(heads, rows) + "\n"


def _blocks(label: str, found: Dependence) -> str:
    heads = ["", "removed", "linear", "within", "between", "cross with kept", "predicted", "true"]
    rows = []
    for block in found.blocks:
        terms = block.terms
        figures = [terms.linear, terms.within, terms.between, terms.kept]
        figures += [block.predicted, block.true]
        rows.append([block.label, f"{block.removed:,}", *(f"{value:+.5f}" for value in figures)])
    table = markdown_table(heads, rows) + "\n"
    return f"<details><summary>{label}, block by block</summary>\n\n{table}\n</details>\n"


def plot_dependence(measured: Measured, path_stem: str | Path, *, title: str) -> tuple[Path, Path]:
    """Plot the terms of each block, a row of panels for each sparsity, a column for each model.

    Args:
        measured: the measurements.
        path_stem: where to write, without a suffix; missing folders are created.
        title: title of the plot.

    Returns:
        The paths of the PNG and of the SVG.

    Raises:
        ValueError: nothing was measured, or nothing was removed.
    """
    if not any(found.blocks for of_model in measured.values() for found in of_model):
        raise ValueError("nothing was removed, so there are no terms to plot")
    return write_figure(lambda: _draw(measured, title), path_stem)


def _draw(measured: Measured, title: str) -> Figure:
    from matplotlib.figure import Figure

    rows, columns = len(_sparsities(measured)), len(measured)
    blocks = max(len(found.blocks) for of_model in measured.values() for found in of_model)
    width = max(3.2, 0.34 * blocks)
    figure = Figure(figsize=(1.0 + width * columns, 1.3 + 3.1 * rows), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    panels = figure.subplots(rows, columns, sharex="col", sharey="row", squeeze=False)
    for column, (label, of_model) in enumerate(measured.items()):
        for row, found in enumerate(of_model):
            _add_blocks(panels[row, column], label, found)
    for row in panels:
        row[0].set_ylabel("change of the loss")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower left", ncols=2, fontsize=10)
    return figure


def _add_blocks(axes: Axes, label: str, found: Dependence) -> None:
    places = range(len(found.blocks))
    for number, (term, name) in enumerate(_BARS.items()):
        heights = [getattr(block.terms, term) for block in found.blocks]
        left = [place + 0.27 * (number - 1) for place in places]
        axes.bar(left, heights, width=0.27, color=COLOURS[number], label=name)
    true = [block.true for block in found.blocks]
    look: dict[str, Any] = {"marker": "D", "markersize": 4, "linestyle": "none", "color": "black"}
    axes.plot(places, true, label="true change, this block alone", **look)
    axes.axhline(0, color="#666666", linewidth=0.8)
    heading = f"{label}, {found.sparsity:.0%} removed"
    figures = f"predicted {found.predicted:+.3f}, true {found.true:+.3f}"
    axes.set_title(f"{heading}\n{figures}", loc="left", fontsize=10)
    axes.set_xticks(list(places), [block.label for block in found.blocks], rotation=90, fontsize=9)
    axes.grid(color="#dddddd", linewidth=0.8, axis="y")
    axes.set_axisbelow(True)
