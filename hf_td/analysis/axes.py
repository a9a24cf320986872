"""Draws curves over the sparsity into axes of matplotlib, and names their ticks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor, log10
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hf_td.analysis.looks import Look
from hf_td.analysis.metrics import metric_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# One seed's curve: sparsity in [0, 1] to the metric.
Curve = Mapping[float, float]

_MOST_LABELS = 14  # more would overlap on a logarithmic axis


def set_scale(axes: Axes, metric: str, lower_is_better: bool) -> None:
    """Label the axis of a metric; it is logarithmic where lower is better."""
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


def add_method(axes: Axes, look: Look, name: str, seeds: Sequence[Curve]) -> Any:
    """Draw the mean over the seeds of a method, with their range, and return its line."""
    seeds = [seed for seed in seeds if seed]
    sparsities, values = by_sparsity(seeds)
    percent = [100 * sparsity for sparsity in sparsities]
    label = f"{name} ({len(seeds)} seeds: mean, range)" if len(seeds) > 1 else name
    if len(seeds) > 1:
        lowest, highest = [min(v) for v in values], [max(v) for v in values]
        axes.fill_between(percent, lowest, highest, alpha=0.18, linewidth=0, color=look.colour)
    return axes.plot(percent, list(map(fmean, values)), label=label, **look.line)[0]


def by_sparsity(seeds: Sequence[Curve]) -> tuple[list[float], list[list[float]]]:
    """Return the rising sparsities, and the values of the seeds at each."""
    sparsities = sorted({sparsity for seed in seeds for sparsity in seed})
    return sparsities, [[seed[s] for seed in seeds if s in seed] for s in sparsities]


def set_sparsity_ticks(axes: Axes, sparsities: Sequence[float], closest: float = 5.0) -> None:
    """Name the measured sparsities in percent; a name without room moves to a second line.

    Args:
        axes: with the sparsity in percent as the horizontal axis.
        sparsities: rising fractions.
        closest: the least distance of two names on one line, in percent.
    """
    last, labels = [-closest, -closest], []
    ticks = [round(100 * sparsity, 1) for sparsity in sparsities]
    for tick in ticks:
        line = next((i for i, place in enumerate(last) if tick - place >= closest), None)
        labels.append("" if line is None else "\n" * line + f"{tick:g}")
        if line is not None:
            last[line] = tick
    axes.set_xticks(ticks, labels)
