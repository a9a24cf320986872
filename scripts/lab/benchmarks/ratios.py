"""Compare measures that took turns."""

from __future__ import annotations

from collections.abc import Sequence

from hf_td.analysis.timing import Quartiles


def ratios(seconds: Sequence[float], baseline: Sequence[float]) -> Quartiles:
    """Return median and quartiles of the ratios of two measures, taken round by round."""
    return Quartiles.of([a / b for a, b in zip(seconds, baseline, strict=True)])
