"""Says in words what was pruned and measured."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import stdev

from hf_td.analysis.metrics import decimals_of, metric_value
from hf_td.report.values import PARTS, Point, Report, Series, has_units, kept_units

NOT_MEASURED = "not measured"


def metric_words(point: Point) -> str:
    """Return the mean of the metric, with the standard deviation if there are several seeds."""
    if point.mean is None:
        return metric_value(None)
    if len(point.metric) < 2:
        return metric_value(point.mean)
    deviation = metric_value(stdev(point.metric), decimals=decimals_of(point.mean))
    return f"{metric_value(point.mean)} ± {deviation}"


def change_words(point: Point, dense: Point | None) -> str:
    """Return the change of the metric against the dense model."""
    if dense is None or dense.mean is None or point.mean is None:
        return NOT_MEASURED
    return f"{point.mean - dense.mean:+.{decimals_of(dense.mean)}f}"


def size_words(count: float | None) -> str:
    """Return a number of bytes in megabytes."""
    return NOT_MEASURED if count is None else f"{count / 1e6:,.1f} MB"


def count_words(count: float | None) -> str:
    """Return a number of parameters."""
    return NOT_MEASURED if count is None else f"{count:,.0f}"


def speed_words(point: Point) -> str:
    """Return the time of a forward, and how many times as fast it is as with the full widths."""
    if point.milliseconds is None:
        return NOT_MEASURED
    dense = point.dense_milliseconds
    faster = "" if dense is None else f" ({dense / point.milliseconds:.2f} times as fast)"
    return f"{point.milliseconds:.1f} ms{faster}"


def pruned_words(series: Series) -> list[str]:
    """Return a sentence for each sparsity on the units that were removed."""
    if not any(point.units for point in series.points):
        return ["This run did not record which units were removed."]
    if not has_units(series.points):
        return ["Single weights were removed. Every head and every neuron stays."]
    return [_removed_words(point) for point in series.points if has_units([point])]


def _removed_words(point: Point) -> str:
    parts = [
        _part_words(part, [row[0] for row in rows]) for part, rows in kept_units([point]).items()
    ]
    removed = f"{point.removed_prunable:.0%} of the prunable weights, {point.removed_of_all:.0%} of"
    return f"At {point.sparsity:.0%}: {', and '.join(parts)}. Removed: {removed} all parameters."


def _part_words(part: str, blocks: Sequence[tuple[float, int]]) -> str:
    name = PARTS.get(part, part)
    removed = [total - kept for kept, total in blocks]
    total = sum(total for _, total in blocks)
    low, high = min(removed), max(removed)
    each = f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"
    where = f" ({each} in each of {len(blocks)} blocks)" if len(blocks) > 1 else ""
    return f"{sum(removed):,.0f} of {total:,} {name} are removed{where}"


def curve_words(report: Report) -> str:
    """Return the values of the curve, for people who do not see it."""
    return " ".join(
        f"{series.label}: "
        + ", ".join(f"{metric_words(point)} at {point.sparsity:.0%}" for point in series.points)
        + "."
        for series in report.series
    )


def cost_words(report: Report, cost: str) -> str:
    """Return the values of a frontier, for people who do not see it."""
    words = size_words if cost == "bytes" else lambda value: f"{value:.1f} ms"
    return " ".join(
        f"{series.label}: "
        + ", ".join(
            f"{metric_words(point)} at {words(getattr(point, cost))} ({point.sparsity:.0%})"
            for point in series.points
            if getattr(point, cost) is not None
        )
        + "."
        for series in report.series
    )
