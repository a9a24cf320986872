"""Formats metrics for tables, plots and cards."""

from __future__ import annotations

import math


def metric_label(metric: str, *, lower_is_better: bool = False) -> str:
    """Return the heading of a column or the label of an axis.

    >>> metric_label("matched_accuracy")
    'matched accuracy'
    >>> metric_label("perplexity", lower_is_better=True)
    'perplexity (lower is better)'
    """
    name = metric.replace("_", " ")
    return f"{name} (lower is better)" if lower_is_better else name


def metric_value(value: float | None, *, decimals: int | None = None) -> str:
    """Format a value with decimals that suit its size; None means that it was not finite.

    >>> metric_value(0.83333), metric_value(17.1234), metric_value(54321.5)
    ('0.8333', '17.12', '54,322')
    """
    if value is None or not math.isfinite(value):
        return "not finite"
    return f"{value:,.{decimals_of(value) if decimals is None else decimals}f}"


def decimals_of(value: float) -> int:
    """Return the number of decimals that a value of this size is written with."""
    if not math.isfinite(value):
        return 0
    return 4 if abs(value) < 10 else 2 if abs(value) < 1000 else 0
