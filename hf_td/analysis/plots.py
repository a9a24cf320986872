"""Plots measurements, without global state of matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import ceil
from pathlib import Path
from statistics import fmean, median
from textwrap import fill
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hf_td.analysis.axes import (
    Curve,
    add_method,
    by_sparsity,
    set_scale,
    set_sparsity_ticks,
)
from hf_td.analysis.looks import Look, looks_of
from hf_td.analysis.metrics import metric_label
from hf_td.extras import extra
from hf_td.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_MOST = 6  # curves of a plot that can be told apart
_WIDTH = 8.4  # inches of a README column: text of a wider figure would shrink
# Methods that every one of several plots shows, to compare the others with.
_REFERENCES = ("plain fine-tuning", "targeted dropout")
_GREY = "#666666"
# The salt makes the ids in an SVG, and thus the file, reproducible.
_STYLE: Any = {
    "svg.hashsalt": "hf_td",
    "font.size": 11,
    "axes.edgecolor": _GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def plot_curves(
    curves: Mapping[str, Sequence[Curve]],
    path_stem: str | Path,
    *,
    metric: str,
    title: str,
    lower_is_better: bool = False,
    names: Sequence[str] = (),
) -> tuple[Path, Path]:
    """Plot a metric against the sparsity, a line for each method, as PNG and SVG.

    A method with several seeds gets the line of its means and a band from the lowest seed to the
    highest. More than six methods are spread over several plots on the same axes; each shows plain
    fine-tuning and targeted dropout, and in grey the methods of the other plots. Equal input gives
    equal files.

    Args:
        curves: for each method, in the order of the legend, the curves of its seeds.
        path_stem: where to write, without a suffix; missing folders are created.
        metric: name of the metric, for the axis.
        title: title of the plot.
        lower_is_better: true if a good model has a low metric, such as a perplexity. The axis then
            says so, and is logarithmic, because such a metric spans magnitudes.
        names: of the methods of all figures that are read together, so that each has one colour.

    Returns:
        The paths of the PNG and of the SVG.

    Raises:
        ValueError: there is no curve, or a method has none.
    """
    _check(curves)
    panel = Panel(heading=title, curves=curves, metric=metric, lower_is_better=lower_is_better)
    return write_figure(lambda: _draw(panel, names), path_stem)


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One of several plots that stand side by side.

    Attributes:
        heading: heading of the plot.
        curves: as for `plot_curves`.
        metric: name of the metric, for the axis.
        lower_is_better: true if a good model has a low metric.
    """

    heading: str
    curves: Mapping[str, Sequence[Curve]]
    metric: str
    lower_is_better: bool = False


def plot_panels(
    panels: Sequence[Sequence[Panel]],
    path_stem: str | Path,
    *,
    title: str,
    names: Sequence[str] = (),
) -> tuple[Path, Path]:
    """Plot rows of panels in the style of `plot_curves`; a method looks the same in all panels.

    Methods after the sixth are grey. Rows of more than three panels become columns.

    Args:
        panels: rows of equal length.
        path_stem: as for `plot_curves`.
        title: title of the figure.
        names: as for `plot_curves`.

    Returns:
        The paths of the PNG and of the SVG.

    Raises:
        ValueError: a panel has no curve, or one of its methods has none.
    """
    for panel in chain.from_iterable(panels):
        _check(panel.curves)
    return write_figure(lambda: _draw_panels(panels, title, names), path_stem)


def plot_strips(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    path_stem: str | Path,
    *,
    metric: str,
    title: str,
    marked: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
    names: Sequence[str] = (),
) -> tuple[Path, Path]:
    """Plot the scatter of values, a strip of dots for each method, as PNG and SVG.

    A grey line spans the range of the values, and a tick marks the median.

    Args:
        panels: from the heading of a panel to the values of each method.
        path_stem: as for `plot_curves`.
        metric: name of the metric, for the axes.
        title: title of the plot.
        marked: from the heading of a panel to one value of each method that is drawn filled.
        names: as for `plot_curves`.

    Returns:
        The paths of the PNG and of the SVG.

    Raises:
        ValueError: there is no value.
    """
    if not any(values for panel in panels.values() for values in panel.values()):
        raise ValueError("no values to plot")
    return write_figure(lambda: _draw_strips(panels, metric, title, marked, names), path_stem)


def plot_lines(
    lines: Mapping[str, Mapping[float, float]], path_stem: str | Path, *, x: str, y: str
) -> tuple[Path, Path]:
    """Plot lines over a logarithmic axis, as PNG and SVG; equal input gives equal files.

    Args:
        lines: from the name of a line, in the order of the legend, to its points.
        path_stem: where to write, without a suffix; missing folders are created.
        x: label of the logarithmic horizontal axis.
        y: label of the vertical axis.

    Returns:
        The paths of the PNG and of the SVG.

    Raises:
        ValueError: there is no point, or a line has none.
    """
    _check({name: [line] for name, line in lines.items()})
    return write_figure(lambda: _draw_lines(lines, x, y), path_stem)


def write_figure(draw: Callable[[], Figure], path_stem: str | Path) -> tuple[Path, Path]:
    """Draw in the style of this project, write a PNG and an SVG, and return their paths."""
    with extra("plots"):
        import matplotlib  # imported only when something is plotted

    stem = Path(path_stem)
    paths = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")
    with matplotlib.rc_context(_STYLE):
        figure = draw()
        with replacing(paths[0]) as draft:
            figure.savefig(draft, format="png", dpi=160)
        with replacing(paths[1]) as draft:
            figure.savefig(draft, format="svg", metadata={"Date": None})
    return paths


def _draw_lines(lines: Mapping[str, Mapping[float, float]], x: str, y: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    looks = looks_of(list(lines))
    for name, line in lines.items():
        points = sorted(line.items())
        look = {"label": name, **looks[name].line}
        axes.plot([p for p, _ in points], [v for _, v in points], **look)
    places = sorted({p for line in lines.values() for p in line})
    axes.set_xscale("log", base=2)
    axes.set_xticks(places, [f"{p:g}" for p in places])
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.axhline(0, color=_GREY, linewidth=0.8)
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, loc="best")
    return figure


def _check(curves: Mapping[str, Sequence[Curve]]) -> None:
    empty = [name for name, seeds in curves.items() if not any(seeds)]
    if empty or not curves:
        raise ValueError(f"no points to plot for {empty or 'any method'}")


def _draw(panel: Panel, names: Sequence[str] = ()) -> Figure:
    from matplotlib.figure import Figure

    groups = _groups(list(panel.curves))
    columns = min(2, len(groups))
    rows = ceil(len(groups) / columns)
    width = 6.6 if columns == 1 else _WIDTH / 2
    letters = int(10 * width)  # in a line of a legend
    is_long = columns > 1 or len(panel.curves) >= _MOST or max(map(len, panel.curves)) > 40
    lines = max(len(fill(f"{name}{' ' * 24}.", letters).split("\n")) for name in panel.curves)
    height = 3.2 + 0.24 * lines * max(map(len, groups)) if is_long else 4.2
    figure = Figure(figsize=(width * columns, height * rows + 0.3), layout="constrained")
    looks = looks_of(names or list(panel.curves))
    parts = figure.subfigures(rows, columns, squeeze=False)
    every = [part.add_subplot() for part in parts.flat[: len(groups)]]
    for part, axes, group in zip(parts.flat, every, groups, strict=False):
        _add_curves(axes, panel, looks, group)
        axes.set_xlabel(_SPARSITY if columns == 1 else "sparsity asked for (%)")
        handles, labels = axes.get_legend_handles_labels()
        labels = [fill(label, letters) for label in labels]
        if is_long:
            part.legend(handles, labels, frameon=False, loc="outside lower left")
        else:
            axes.legend(handles, labels, frameon=False, loc="best")
    limits = [axes.get_ylim() for axes in every]
    for axes in every:
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    if columns == 1:
        every[0].set_title(fill(panel.heading, 70), loc="left", fontsize=12)
    else:
        figure.suptitle(f"{panel.heading} (grey: the others)", x=0.01, ha="left", fontsize=12)
    return figure


_SPARSITY = "sparsity asked for: share of the prunable weights (%)"


def _groups(names: Sequence[str]) -> list[list[str]]:
    """Return the methods of each plot: at most six, with the references in every one."""
    if len(names) <= _MOST:
        return [list(names)]
    shared = [name for name in _REFERENCES if name in names] or list(names[:1])
    others = [name for name in names if name not in shared]
    plots = ceil(len(others) / (_MOST - len(shared)))
    size = ceil(len(others) / plots)
    return [[*shared, *others[i : i + size]] for i in range(0, len(others), size)]


def _draw_panels(
    panels: Sequence[Sequence[Panel]], title: str, names: Sequence[str] = ()
) -> Figure:
    from matplotlib.figure import Figure

    if len(panels[0]) > max(3, len(panels)):
        panels = list(zip(*panels, strict=True))
    every = list(chain.from_iterable(panels))
    shown = list(dict.fromkeys(name for panel in every for name in panel.curves))
    looks, named = looks_of(names or shown), shown[:_MOST]
    rows, columns = len(panels), len(panels[0])
    width = min(4.2, _WIDTH / columns)
    figure = Figure(figsize=(width * columns, 2.6 * rows + 1.2), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    handles: dict[str, Any] = {}
    for axes, panel in zip(figure.subplots(rows, columns, squeeze=False).flat, every, strict=True):
        handles |= _add_curves(axes, panel, looks, named)
        axes.set_title(panel.heading, fontsize=11)
    for axes in figure.axes[-columns:]:
        axes.set_xlabel("sparsity asked for (%)")
    if len(shown) > _MOST:
        handles["other methods"] = figure.axes[0].plot([], [], label="other methods", **_OTHER)[0]
    labels = [fill(label, int(9 * width * columns / 2)) for label in handles]
    look: Any = {"frameon": False, "loc": "outside lower left", "ncols": 1 if columns == 1 else 2}
    figure.legend(list(handles.values()), labels, **look)
    return figure


# The lines of methods that a plot does not name.
_OTHER: dict[str, Any] = {"color": "#c4c4c4", "linewidth": 1, "zorder": 1}


def _add_curves(
    axes: Axes, panel: Panel, looks: Mapping[str, Look], named: Sequence[str]
) -> dict[str, Any]:
    """Draw methods by name and the others in grey; return the lines of the named ones."""
    for name in panel.curves.keys() - set(named):
        sparsities, values = by_sparsity(panel.curves[name])
        axes.plot([100 * s for s in sparsities], list(map(fmean, values)), **_OTHER)
    lines = {
        name: add_method(axes, looks[name], name, panel.curves[name])
        for name in named
        if name in panel.curves
    }
    set_scale(axes, panel.metric, panel.lower_is_better)
    measured = {s for seeds in panel.curves.values() for seed in seeds for s in seed}
    inches = axes.bbox.width / axes.figure.dpi
    set_sparsity_ticks(axes, sorted(measured), closest=24 / inches)
    axes.tick_params(color=_GREY)
    axes.grid(color="#dddddd", linewidth=0.8, which="both" if panel.lower_is_better else "major")
    axes.set_axisbelow(True)
    return lines


def _draw_strips(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    metric: str,
    title: str,
    marked: Mapping[str, Mapping[str, float]],
    names: Sequence[str] = (),
) -> Figure:
    from matplotlib.figure import Figure

    methods = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    looks = looks_of(names or methods)
    height = 1.6 + 0.36 * len(methods)
    width = min(1.1 * _WIDTH, 2.4 + 3.6 * len(panels))
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    all_axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (heading, strips) in zip(all_axes, panels.items(), strict=True):
        for place, name in enumerate(methods):
            one = marked.get(heading, {}).get(name)
            _add_strip(axes, place, looks[name].colour, strips.get(name, ()), one)
        axes.set_title(heading, fontsize=11)
        axes.set_xlabel(metric_label(metric))
        axes.grid(color="#dddddd", linewidth=0.8, axis="x")
        axes.set_axisbelow(True)
        axes.tick_params(color=_GREY)
    all_axes[0].set_yticks(range(len(methods)), methods)
    all_axes[0].set_ylim(len(methods) - 0.5, -0.5)  # the first method above
    return figure


def _add_strip(
    axes: Axes, place: int, colour: str, values: Sequence[float], marked: float | None
) -> None:
    if not values:
        return
    axes.plot([min(values), max(values)], [place, place], color="#bbbbbb", linewidth=3, zorder=1)
    axes.plot([median(values)], [place], marker="|", markersize=16, color=_GREY, zorder=2)
    look: dict[str, Any] = {"marker": "o", "linestyle": "none", "markeredgecolor": colour}
    axes.plot(values, [place] * len(values), markersize=6, markerfacecolor="none", **look)
    if marked is not None:
        axes.plot([marked], [place], markersize=8, markerfacecolor=colour, **look)
