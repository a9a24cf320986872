"""Write the page of a sweep: tables, plots, and the sources of every figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from hf_td.analysis.metrics import decimals_of, metric_label, metric_value
from hf_td.analysis.plots import Panel, plot_curves, plot_panels, plot_strips
from hf_td.analysis.tables import markdown_table
from hf_td.files import append_json_line, write_text
from hf_td.tasks.experiment.results import cell, spread_of
from lab.sweeps.frontier import frontier_section
from lab.sweeps.report import Report, Row, Spread, Table

_BEHIND = "↓"


def write_page(
    report: Report,
    stem: Path,
    tuned_at: Sequence[float] = (0.75, 0.9),
    sections: Sequence[str] = (),
) -> Path:
    """Write STEM.md, its plots as PNG and SVG, and its lines to STEM.jsonl; return the first.

    Args:
        report: of the sweep.
        stem: path without a suffix; missing folders are made.
        tuned_at: the sparsities at which the knobs are compared.
        sections: parts of the page before its sources.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    _copy_lines(report, stem.with_name(f"{stem.name}.jsonl"))
    parts = [f"# {report.title}\n", _INTRODUCTION, *_overview(report, stem)]
    parts += _areas(report.tables)
    for table in report.tables:
        parts += _section(report, table, stem)
    for table in report.knobs:
        parts += _tuning(report, table, stem, tuned_at)
    parts += frontier_section(report.tables, stem)
    parts += sections
    parts += _sources(report, stem.name)
    page = stem.with_name(f"{stem.name}.md")
    write_text(page, "\n".join(parts))
    return page


_INTRODUCTION = f"""\
The metric after one-shot pruning. Figures of several seeds are mean ± standard deviation; those
without ± are of one seed. The best of a column is bold. {_BEHIND} marks targeted dropout where it
is behind the best by more than the larger of their two standard deviations, which is zero for one
seed. The area is the area under the curve divided by the range of the measured sparsities: the mean
metric. Methods that were not measured at every sparsity have none.
"""


def _copy_lines(report: Report, path: Path) -> None:
    """Write the lines from which the page can be made again."""
    path.unlink(missing_ok=True)
    for line in (report.plan, *report.lines):
        append_json_line(path, {n: value for n, value in line.items() if n != "traceback"})


def _overview(report: Report, stem: Path) -> Iterator[str]:
    """Plot the methods with several seeds at all tasks and levels, in one figure."""
    compared = dict.fromkeys(r.label for t in report.tables for r in t.rows if len(r.lines) > 1)
    by_level: dict[str, list[Panel]] = {}
    for table in report.tables:
        curves = {r.label: r.curves for r in table.rows if r.label in compared and r.curves}
        if curves:
            panel = Panel(
                heading=f"{table.task}, {table.level}",
                curves=curves,
                metric=table.first["metric"],
                lower_is_better=table.lower_is_better,
            )
            by_level.setdefault(table.level, []).append(panel)
    rows = list(by_level.values())
    if len(report.tables) > 1 and len({len(row) for row in rows}) == 1:
        name = stem.with_name(f"{stem.name}-overview")
        plot_panels(rows, name, title=report.title, names=report.labels)
        places = ", ".join(f"{table.task} at the {table.level} level" for table in report.tables)
        about = f"Curves of {', '.join(compared)} for {places}. The tables have every value."
        yield f"![{about}]({name.name}.png)\n"


def _areas(tables: Sequence[Table]) -> Iterator[str]:
    """Yield a table with the area of each method at each task and level."""
    labels = list(dict.fromkeys(row.label for table in tables for row, _ in table.areas))
    rows = {label: [label] for label in labels}
    for table in tables:
        column = _column(table, table.areas)
        for label in labels:
            rows[label].append(column.get(label, ""))
    heads = ["area under the curve", *(f"{t.task}, {t.level}" for t in tables)]
    yield "## All tasks and levels\n"
    yield markdown_table(heads, rows.values()) + "\n"


def _section(report: Report, table: Table, stem: Path) -> Iterator[str]:
    metric = table.first["metric"]
    title = f"{table.task}, {table.level} level"
    yield f"## {title}\n"
    label = metric_label(metric, lower_is_better=table.lower_is_better)
    shares = ", ".join(
        f"{p['removed_prunable']:.0%} and {p['removed_of_all']:.0%} at {p['sparsity']:.0%}"
        for p in table.first["curve"]
    )
    yield (
        f"{label} on the {table.first['split']} split. Removed of the prunable weights and of all "
        f"parameters, by the sparsity that was asked for: {shares}.\n"
    )
    yield _curve_table(table)
    curves = {row.label: row.curves for row in table.rows if row.curves}
    if len(table.sparsities) == 1:  # no curve, and the table says it all
        yield from _missing(table)
        return
    if curves:
        name = stem.with_name(f"{stem.name}-{table.name}")
        options: Any = {"metric": metric, "lower_is_better": table.lower_is_better}
        options |= {"title": f"{report.title}: {title}", "names": report.labels}
        plot_curves(curves, name, **options)
        yield f"![{_about(table, title)}]({name.name}.png)\n"
    yield from _where_behind(table)
    yield from _missing(table)


def _about(table: Table, title: str) -> str:
    """Return a plot of curves in words, for people who do not see it."""
    areas = table.areas
    best = table.best([area for _, area in areas])
    leader = next((row.label for row, area in areas if area is best), None)
    most = "" if best is None else f" The best area under the curve is that of {leader}."
    methods = "1 method" if len(table.rows) == 1 else f"{len(table.rows)} methods"
    return (
        f"{title}: {table.first['metric']} against the sparsity, a curve for each of {methods}."
        f"{most} The table above has every value."
    )


def _curve_table(table: Table) -> str:
    columns = [
        _column(
            table, [(row, row.points[sparsity]) for row in table.rows if sparsity in row.points]
        )
        for sparsity in table.sparsities
    ]
    columns.append(_column(table, table.areas))
    heads = ["", "seeds", *(f"{s:.0%}" for s in table.sparsities), "area"]
    rows = [
        [row.label, str(len(row.lines)), *(column.get(row.label, "") for column in columns)]
        for row in table.rows
    ]
    return markdown_table(heads, rows) + "\n"


def _column(table: Table, spreads: Sequence[tuple[Row, Spread]]) -> dict[str, str]:
    best = table.best([spread for _, spread in spreads])
    return {row.label: _shown(table, row, spread, best) for row, spread in spreads}


def _shown(table: Table, row: Row, spread: Spread, best: Spread) -> str:
    text = cell(spread, len(row.lines))
    if spread is not None and best is not None and spread["mean"] == best["mean"]:
        return f"**{text}**"
    behind = row.is_targeted_dropout and table.is_behind(spread, best)
    return f"{text} {_BEHIND}" if behind else text


def _where_behind(table: Table) -> Iterator[str]:
    """Yield a sentence for each row of targeted dropout that is behind somewhere."""
    for row in table.rows:
        if not row.is_targeted_dropout:
            continue
        losses = []
        for sparsity in row.points:
            points = {other.label: other.points.get(sparsity) for other in table.rows}
            best = table.best(list(points.values()))
            if table.is_behind(points[row.label], best):
                winner = next(label for label, spread in points.items() if spread is best)
                losses.append(f"{sparsity:.0%} ({winner})")
        if losses:
            yield f"{row.label} is behind at {', '.join(losses)}.\n"


def _missing(table: Table) -> Iterator[str]:
    if table.missing:
        yield f"Not in the table: {'; '.join(table.missing)}.\n"


def _tuning(report: Report, table: Table, stem: Path, wanted: Sequence[float]) -> Iterator[str]:
    """Yield the spread of the metric over the variants of each method."""
    metric = table.first["metric"]
    sparsities = [s for s in wanted if s in table.sparsities]
    title = f"Ease of tuning: {table.task}, {table.level} level"
    panels = {f"{s:.0%} removed": _strips(table, s) for s in sparsities}
    marked = {f"{s:.0%} removed": _defaults(table, s) for s in sparsities}
    yield f"## {title}\n"
    yield (
        f"{metric_label(metric)} over a fixed grid of each method's own knobs. The default is the "
        "variant in the tables above; the plot fills its marks.\n"
    )
    for heading, strips in panels.items():
        rows = [
            [name, str(len(values)), *_statistics(values, marked[heading].get(name))]
            for name, values in strips.items()
        ]
        yield markdown_table([heading, "variants", *_STATISTICS], rows) + "\n"
    if any(any(panel.values()) for panel in panels.values()):
        name = stem.with_name(f"{stem.name}-tuning-{table.name}")
        options: Any = {"metric": metric, "title": title, "marked": marked}
        plot_strips(panels, name, names=report.labels, **options)
        about = f"{title}: {metric} of every variant, a strip of dots for each method."
        yield f"![{about} The tables above have the ranges.]({name.name}.png)\n"
    yield _variants(table, sparsities)
    yield from _missing(table)


_STATISTICS = ("default", "lowest", "median", "highest", "standard deviation")


def _statistics(values: Sequence[float], default: float | None) -> list[str]:
    if not values:
        return [""] * len(_STATISTICS)
    spread = spread_of(values)
    assert spread is not None
    found = [default, min(values), median(values), max(values), spread["std"]]
    places = decimals_of(spread["mean"])
    return ["" if v is None else metric_value(v, decimals=places) for v in found]


def _strips(table: Table, sparsity: float) -> dict[str, list[float]]:
    """Return for each method the means of its variants that are finite."""
    strips: dict[str, list[float]] = {}
    for row in table.rows:
        spread = row.points.get(sparsity)
        strips.setdefault(row.label, []).extend([] if spread is None else [spread["mean"]])
    return strips


def _defaults(table: Table, sparsity: float) -> dict[str, float]:
    spreads = {row.label: row.points.get(sparsity) for row in table.rows if row.is_default}
    return {label: spread["mean"] for label, spread in spreads.items() if spread is not None}


def _variants(table: Table, sparsities: Sequence[float]) -> str:
    """Return a folded table of all variants."""
    heads = ["", "knobs", *(f"{s:.0%}" for s in sparsities)]
    rows = [
        [
            row.label,
            ", ".join(f"{name} {value}" for name, value in row.knobs.items()),
            *(cell(row.points.get(s), len(row.lines)) for s in sparsities),
        ]
        for row in table.rows
    ]
    return _folded("All variants", markdown_table(heads, rows) + "\n")


def _sources(report: Report, name: str) -> Iterator[str]:
    yield "## Sources\n"
    yield (
        f"Every figure comes from a line of [{name}.jsonl]({name}.jsonl). The line has the "
        "command, configuration, seed, versions, hardware and commit of its cell.\n"
    )
    for facts, lines in _by_environment(report.finished).items():
        minutes = sum(line["seconds"] for line in lines) / 60
        yield f"- {len(lines)} cells, {minutes:,.0f} minutes: {facts}"
    yield ""
    for table in report.tables:
        commands = [
            f"# seeds {', '.join(str(line['seed']) for line in row.lines)}\n"
            f"{row.lines[0]['command']}"
            for row in table.rows
        ]
        text = "```text\n" + "\n".join(commands) + "\n```\n"
        yield _folded(f"Commands: {table.task}, {table.level} level", text)


def _by_environment(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        groups.setdefault(_environment(line["environment"]), []).append(line)
    return groups


def _environment(facts: Mapping[str, Any]) -> str:
    hardware = facts["hardware"]
    processors = [f"{hardware['cpu']}, {hardware['torch_threads']} thread(s)", *hardware["gpus"]]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return f"{', '.join(processors)}; {versions}; commit `{facts['commit']}`"


def _folded(summary: str, text: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{text}\n</details>\n"
