"""Plots measurements, without global state of matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import ceil, floor, log10
from pathlib import Path
from statistics import fmean, median
from textwrap import fill
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hf_td.analysis.metrics import metric_label
from hf_td.extras import extra
from hf_td.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# One seed's curve: sparsity in [0, 1] to the metric.
Curve = Mapping[float, float]

# Okabe and Ito's colours, distinct for people with any colour vision; the markers help in print.
# Blue and vermilion, the most different, come first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Once the colours repeat, the lines are broken and the markers hollow.
_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)))
_MANY = 5  # with more methods the legend stands beside the plot
_MOST_LABELS = 14  # more would overlap on a logarithmic axis
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
) -> tuple[Path, Path]:
    """Plot a metric against the sparsity, a line for each method, as PNG and SVG.

    A method with several seeds gets the line of its means and a band from the lowest seed to the
    highest. Equal input gives equal files.

    Args:
        curves: for each method, in the order of the legend, the curves of its seeds.
        path_stem: where to write, without a suffix; missing folders are created.
        metric: name of the metric, for the axis.
        title: title of the plot.
        lower_is_better: true if a good model has a low metric, such as a perplexity. The axis then
            says so, and is logarithmic, because such a metric spans magnitudes.

    Returns:
        The paths of the PNG and of the SVG.

    Raises:
        ValueError: there is no curve, or a method has none.
    """
    _check(curves)
    return write_figure(lambda: _draw(curves, metric, title, lower_is_better), path_stem)


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
    panels: Sequence[Sequence[Panel]], path_stem: str | Path, *, title: str
) -> tuple[Path, Path]:
    """Plot rows of panels in the style of `plot_curves`; a method looks the same in all panels.

    Args:
        panels: rows of equal length.
        path_stem: as for `plot_curves`.
        title: title of the figure.

    Returns:
        The paths of the PNG and of the SVG.

    Raises:
        ValueError: a panel has no curve, or one of its methods has none.
    """
    for panel in chain.from_iterable(panels):
        _check(panel.curves)
    return write_figure(lambda: _draw_panels(panels, title), path_stem)


def plot_strips(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    path_stem: str | Path,
    *,
    metric: str,
    title: str,
    marked: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
) -> tuple[Path, Path]:
    """Plot the scatter of values, a strip of dots for each method, as PNG and SVG.

    A grey line spans the range of the values, and a tick marks the median.

    Args:
        panels: from the heading of a panel to the values of each method.
        path_stem: as for `plot_curves`.
        metric: name of the metric, for the axes.
        title: title of the plot.
        marked: from the heading of a panel to one value of each method that is drawn filled.

    Returns:
        The paths of the PNG and of the SVG.

    Raises:
        ValueError: there is no value.
    """
    if not any(values for panel in panels.values() for values in panel.values()):
        raise ValueError("no values to plot")
    return write_figure(lambda: _draw_strips(panels, metric, title, marked), path_stem)


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
    for place, (name, line) in enumerate(lines.items()):
        points = sorted(line.items())
        look: dict[str, Any] = {"color": COLOURS[place % len(COLOURS)], "label": name}
        look |= {"marker": _MARKERS[place % len(_MARKERS)], "markersize": 6, "linewidth": 2}
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


def _draw(
    curves: Mapping[str, Sequence[Curve]], metric: str, title: str, lower_is_better: bool = False
) -> Figure:
    from matplotlib.figure import Figure

    many = len(curves) > _MANY
    figure = Figure(figsize=(12.0, 5.0) if many else (6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for place, (name, seeds) in enumerate(curves.items()):
        _add_method(axes, place, name, [seed for seed in seeds if seed])
    axes.set_title(title, loc="left", fontsize=12)
    axes.set_xlabel("sparsity asked for: share of the prunable weights (%)")
    _set_scale(axes, metric, lower_is_better)
    axes.set_xticks(_ticks(curves))
    axes.tick_params(color=_GREY)
    axes.grid(color="#dddddd", linewidth=0.8, which="both" if lower_is_better else "major")
    axes.set_axisbelow(True)
    if many:
        handles, labels = axes.get_legend_handles_labels()
        look: Any = {"frameon": False, "loc": "outside right upper", "handlelength": 3}
        figure.legend(handles, [fill(label, 36) for label in labels], fontsize=10, **look)
    else:
        axes.legend(frameon=False, loc="best")
    return figure


def _draw_panels(panels: Sequence[Sequence[Panel]], title: str) -> Figure:
    from matplotlib.figure import Figure

    every = list(chain.from_iterable(panels))
    places = {n: i for i, n in enumerate(dict.fromkeys(n for p in every for n in p.curves))}
    rows, columns = len(panels), len(panels[0])
    figure = Figure(figsize=(3.2 * columns, 2.6 * rows + 0.9), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    handles: dict[str, Any] = {}
    for axes, panel in zip(figure.subplots(rows, columns, squeeze=False).flat, every, strict=True):
        for name, seeds in panel.curves.items():
            handles[name] = _add_method(axes, places[name], name, [seed for seed in seeds if seed])
        axes.set_title(panel.heading, fontsize=11)
        _set_scale(axes, panel.metric, panel.lower_is_better)
        axes.set_xticks(_ticks(panel.curves, closest=8))
        axes.tick_params(color=_GREY)
        axes.grid(color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
    for axes in figure.axes[-columns:]:
        axes.set_xlabel("sparsity asked for (%)", fontsize=11)
    named = [handles[name] for name in places]
    # Short labels have room beside the title, long ones below the panels, one in a line.
    is_short = sum(map(len, places)) < 20 * columns
    where = "outside upper right" if is_short else "outside lower left"
    look: Any = {"frameon": False, "loc": where, "ncols": min(3, len(places)) if is_short else 1}
    figure.legend(named, [fill(name, 32 * columns) for name in places], **look)
    return figure


def _draw_strips(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    metric: str,
    title: str,
    marked: Mapping[str, Mapping[str, float]],
) -> Figure:
    from matplotlib.figure import Figure

    methods = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    height = 1.6 + 0.36 * len(methods)
    figure = Figure(figsize=(2.4 + 3.6 * len(panels), height), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    all_axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (heading, strips) in zip(all_axes, panels.items(), strict=True):
        for place, name in enumerate(methods):
            _add_strip(axes, place, strips.get(name, ()), marked.get(heading, {}).get(name))
        axes.set_title(heading, fontsize=11)
        axes.set_xlabel(metric_label(metric))
        axes.grid(color="#dddddd", linewidth=0.8, axis="x")
        axes.set_axisbelow(True)
        axes.tick_params(color=_GREY)
    all_axes[0].set_yticks(range(len(methods)), methods)
    all_axes[0].set_ylim(len(methods) - 0.5, -0.5)  # the first method above
    return figure


def _add_strip(axes: Axes, place: int, values: Sequence[float], marked: float | None) -> None:
    if not values:
        return
    colour = COLOURS[place % len(COLOURS)]
    axes.plot([min(values), max(values)], [place, place], color="#bbbbbb", linewidth=3, zorder=1)
    axes.plot([median(values)], [place], marker="|", markersize=16, color=_GREY, zorder=2)
    look: dict[str, Any] = {"marker": "o", "linestyle": "none", "markeredgecolor": colour}
    axes.plot(values, [place] * len(values), markersize=6, markerfacecolor="none", **look)
    if marked is not None:
        axes.plot([marked], [place], markersize=8, markerfacecolor=colour, **look)


def _set_scale(axes: Axes, metric: str, lower_is_better: bool) -> None:
    axes.set_ylabel(metric_label(metric, lower_is_better=lower_is_better))
    if lower_is_better:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: _minor_label(value, *axes.get_ylim()))


def _minor_label(value: float, lowest: float, highest: float) -> str:
    """Return the label of a line between powers of ten; empty if there is no room for it.

    An axis over less than a power of ten labels every line, a longer one only 2 and 5 times a power
    of ten, and an axis over many powers none.
    """
    powers = range(floor(log10(lowest)), ceil(log10(highest)) + 1)
    inside = [
        r for p in powers for r in (10.0**p, 2 * 10.0**p, 5 * 10.0**p) if lowest <= r <= highest
    ]
    if len(inside) > _MOST_LABELS:
        return ""
    return f"{value:g}" if len(inside) < 2 or f"{value:e}"[0] in "25" else ""


def _add_method(axes: Axes, place: int, name: str, seeds: Sequence[Curve]) -> Any:
    """Draw a method and return its line."""
    sparsities = sorted({sparsity for seed in seeds for sparsity in seed})
    values = [[seed[sparsity] for seed in seeds if sparsity in seed] for sparsity in sparsities]
    percent = [100 * sparsity for sparsity in sparsities]
    look: dict[str, Any] = {"color": COLOURS[place % len(COLOURS)]}
    dashes = _DASHES[place // len(COLOURS) % len(_DASHES)]
    label = f"{name} ({len(seeds)} seeds: mean, range)" if len(seeds) > 1 else name
    if len(seeds) > 1:
        lowest, highest = [min(v) for v in values], [max(v) for v in values]
        axes.fill_between(percent, lowest, highest, alpha=0.18, linewidth=0, **look)
    marker = _MARKERS[place % len(_MARKERS)]
    means = [fmean(v) for v in values]
    filling = look["color"] if place < len(COLOURS) else "white"
    look |= {"marker": marker, "markerfacecolor": filling, "linestyle": dashes, "label": label}
    return axes.plot(percent, means, markersize=6, linewidth=2, **look)[0]


def _ticks(curves: Mapping[str, Sequence[Curve]], closest: float = 4.0) -> list[float]:
    """Return the measured sparsities in percent, without those that would overlap."""
    measured = {100 * sparsity for seeds in curves.values() for seed in seeds for sparsity in seed}
    ticks: list[float] = []
    for percent in sorted(measured):
        if not ticks or percent - ticks[-1] >= closest:
            ticks.append(round(percent, 1))
    return [int(tick) if tick == int(tick) else tick for tick in ticks]
