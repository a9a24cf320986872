"""Draws the charts of a page. Each function returns a figure of matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_td.analysis.axes import add_method, set_scale, set_sparsity_ticks
from hf_td.analysis.looks import Look, looks_of
from hf_td.analysis.metrics import metric_value
from hf_td.report.svg import INK
from hf_td.report.values import PARTS, Entry, Point, Report, kept_units

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE = (5.4, 3.6)  # inches: text of 11 points is readable on a phone, too
_CELLS_WITH_NUMBERS = 24  # rows of a heat map
_RATES = {"targeting": "targeting", "drop_rate": "drop rate"}


def draw_curve(report: Report) -> Figure:
    """Draw the metric against the sparsity, with the range over seeds and the dense line."""
    figure, axes = _figure()
    looks = _looks(report)
    for series in report.series:
        if any(series.curves):
            add_method(axes, looks[series.label], series.label, series.curves)
    dense = [s.dense.mean for s in report.series if s.dense is not None]
    known = [value for value in dense if value is not None]
    if known:
        best = min(known) if report.lower_is_better else max(known)
        label = f"dense: {metric_value(best)}"
        axes.axhline(best, color=INK, linewidth=1, linestyle=(0, (6, 3)), label=label)
    set_scale(axes, report.metric, report.lower_is_better)
    set_sparsity_ticks(axes, report.sparsities, closest=4.5)
    axes.set_xlabel("sparsity asked for: share of the prunable weights (%)")
    _legend(figure, axes)
    return figure


def draw_frontier(report: Report, cost: str, label: str, scale: float = 1.0) -> Figure:
    """Draw the metric against a cost: a mark for each sparsity, a line for each run.

    Args:
        report: the report.
        cost: `milliseconds` or `bytes`.
        label: of the axis.
        scale: the unit of the axis, such as 1e6 for megabytes.
    """
    figure, axes = _figure()
    looks = _looks(report)
    for series in report.series:
        places = [
            (getattr(p, cost) / scale, p.mean, p.sparsity)
            for p in series.points
            if getattr(p, cost) is not None and p.mean is not None
        ]
        if places:
            xs, ys = [x for x, _, _ in places], [y for _, y, _ in places]
            axes.plot(xs, ys, label=series.label, **looks[series.label].line)
            for x, y, sparsity in places:
                text = f"{sparsity:.0%}"
                # Beside the line: a good model stands above a worse one of the same cost.
                offset = (5, 5) if report.lower_is_better else (5, -12)
                look: Any = {"textcoords": "offset points", "xytext": offset, "fontsize": 10}
                axes.annotate(text, (x, y), color=INK, **look)
    set_scale(axes, report.metric, report.lower_is_better)
    axes.set_xlim(left=0)
    axes.set_xlabel(label)
    _legend(figure, axes)
    return figure


def draw_units(points: Sequence[Point]) -> Figure:
    """Draw heat maps of the kept units: a row for each block, a column for each sparsity."""
    from matplotlib.figure import Figure

    kept = kept_units(points)
    rows = max(len(blocks) for blocks in kept.values())
    size = max(3.4, 1.0 + 0.62 * len(points)), len(kept) * (0.9 + min(0.26 * rows, 8.0))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(kept), 1, squeeze=False)[:, 0]
    for axes, (part, blocks) in zip(panels, kept.items(), strict=True):
        _add_heat_map(axes, PARTS.get(part, part), blocks, [p.sparsity for p in points])
    return figure


def _add_heat_map(
    axes: Axes, title: str, blocks: list[list[tuple[float, int]]], sparsities: Sequence[float]
) -> None:
    shares = [[kept / total if total else 0.0 for kept, total in row] for row in blocks]
    axes.pcolormesh(shares, cmap="cividis", vmin=0, vmax=1, edgecolors="none")
    axes.grid(visible=False)
    axes.invert_yaxis()  # the first block above
    if len(blocks) <= _CELLS_WITH_NUMBERS:
        for y, row in enumerate(blocks):
            for x, (kept, _) in enumerate(row):
                ink = "#111111" if shares[y][x] > 0.5 else "#eeeeee"
                look: Any = {"ha": "center", "va": "center", "fontsize": 10, "color": ink}
                axes.text(x + 0.5, y + 0.5, f"{kept:.3g}" if kept % 1 else f"{kept:.0f}", **look)
        axes.set_yticks([i + 0.5 for i in range(len(blocks))], [str(i) for i in range(len(blocks))])
    axes.set_xticks([i + 0.5 for i in range(len(sparsities))], [f"{s:.0%}" for s in sparsities])
    axes.tick_params(length=0)
    axes.set_title(f"{title} kept", fontsize=11, loc="left")
    axes.set_xlabel("sparsity")
    axes.set_ylabel("block")


def draw_log(log: Sequence[Entry]) -> Figure:
    """Draw the loss over the updates, and the rates below it where they were logged."""
    from matplotlib.figure import Figure

    rates = [name for name in _RATES if any(name in entry.values for entry in log)]
    figure = Figure(figsize=(_SIZE[0], 4.6 if rates else 3.0), layout="constrained")
    panels = figure.subplots(2 if rates else 1, 1, sharex=True, squeeze=False)[:, 0]
    axes = panels[0]
    axes.plot(*_line(log, "loss"), color=INK, linewidth=1.5)
    axes.set_ylabel("training loss")
    if rates:
        for name, dashes in zip(rates, ("-", (0, (2, 1))), strict=False):
            look: Any = {"color": INK, "linestyle": dashes, "linewidth": 2}
            panels[1].plot(*_line(log, name), label=_RATES[name], **look)
        panels[1].set_ylim(-0.02, 1.05)
        panels[1].set_ylabel("rate")
        panels[1].legend(loc="best")
    panels[-1].set_xlabel("updates")
    return figure


def _line(log: Sequence[Entry], name: str) -> tuple[list[int], list[float]]:
    found = [(entry.step, entry.values[name]) for entry in log if name in entry.values]
    return [step for step, _ in found], [value for _, value in found]


def _figure() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    return figure, figure.add_subplot()


def _looks(report: Report) -> Mapping[str, Look]:
    return looks_of([series.label for series in report.series])


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=1, fontsize=10, labelcolor=INK)
