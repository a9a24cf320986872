"""Writes a report as one HTML page that loads nothing."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from importlib.resources import files
from typing import Any

from hf_td.analysis.metrics import metric_label
from hf_td.extras import extra
from hf_td.report.charts import draw_curve, draw_frontier, draw_log, draw_units
from hf_td.report.svg import draw_svg
from hf_td.report.values import Report, Series, has_units
from hf_td.report.words import (
    NOT_MEASURED,
    change_words,
    cost_words,
    count_words,
    curve_words,
    metric_words,
    pruned_words,
    size_words,
    speed_words,
)

_TEMPLATE, _STYLE, _SCRIPT = "page.template", "page.css", "page.js"


def render_page(report: Report) -> str:
    """Return the page of a report: HTML with its style, script and charts inside.

    The page loads nothing, and its Content-Security-Policy lets it load nothing. All texts of the
    report are escaped.

    Raises:
        ImportError: matplotlib (extra `plots`) or jinja2 (extra `hub`) is not installed.
    """
    with extra("hub"):
        from jinja2 import Environment, StrictUndefined

    script = _read(_SCRIPT)
    digest = b64encode(sha256(script.encode()).digest()).decode()
    # The template marks the style, the script and the charts as safe; all else is escaped.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(_read(_TEMPLATE)).render(
        report=report,
        metric=metric_label(report.metric, lower_is_better=report.lower_is_better),
        style=_read(_STYLE),
        script=script,
        digest=digest,
        rows=[list(_rows(report, sparsity)) for sparsity in report.sparsities],
        curve=_curve(report),
        frontiers=list(_frontiers(report)),
        runs=[_run(number, series) for number, series in enumerate(report.series)],
    )


def _read(name: str) -> str:
    return files("hf_td.report").joinpath(name).read_text(encoding="utf-8")


def _rows(report: Report, sparsity: float) -> Iterator[list[str]]:
    """Yield for each run the cells of the table at a sparsity."""
    for series in report.series:
        point = series.at(sparsity)
        if point is None:
            yield [series.label, f"{sparsity:.0%}", *[NOT_MEASURED] * 5]
            continue
        yield [
            series.label,
            f"{sparsity:.0%}",
            metric_words(point),
            change_words(point, series.dense),
            count_words(point.parameters),
            size_words(point.bytes),
            speed_words(point),
        ]


def _curve(report: Report) -> str:
    title = f"{report.metric} against sparsity"
    return draw_svg(lambda: draw_curve(report), "curve", title, curve_words(report))


def _frontiers(report: Report) -> Iterator[tuple[str, str | None]]:
    """Yield a heading and a drawing for each cost; None where it was not measured."""
    costs = {
        "milliseconds": ("measured latency", "milliseconds of a forward (measured, median)", 1.0),
        "bytes": ("size", "weights of the export (MB)", 1e6),
    }
    for cost, (name, label, scale) in costs.items():
        heading = f"{report.metric} against {name}"
        known = [getattr(p, cost) is not None for s in report.series for p in s.points]
        if not any(known):
            yield heading, None
            continue

        def draw(cost: str = cost, label: str = label, scale: float = scale) -> Any:
            return draw_frontier(report, cost, label, scale)

        yield heading, draw_svg(draw, cost, heading, cost_words(report, cost))


def _run(number: int, series: Series) -> dict[str, Any]:
    """Return what the page shows of one run alone."""
    words = pruned_words(series)
    units = log = None
    if has_units(series.points):
        title = f"kept units of each block: {series.label}"
        name, about = f"units-{number}", " ".join(words)
        units = draw_svg(lambda: draw_units(series.points), name, title, about)
    if series.log:
        first, last = series.log[0], series.log[-1]
        losses = [f"{e.values['loss']:.4g} at update {e.step}" for e in (first, last)]
        about = f"The training loss goes from {' to '.join(losses)}."
        title = f"loss and rates over the updates: {series.label}"
        log = draw_svg(lambda: draw_log(series.log), f"log-{number}", title, about)
    return {"series": series, "words": words, "units": units, "log": log}
