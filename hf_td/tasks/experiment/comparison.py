"""Compares experiments on one task: a table, a plot, a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from hf_td.analysis.tables import markdown_table
from hf_td.tasks.experiment.methods import METHODS
from hf_td.tasks.experiment.results import (
    SHARES,
    Results,
    cell,
    curves_of,
    label_of,
    plot_results,
    shares_of,
)


def comparison_table(experiments: Sequence[Results], caption: str | None = None) -> Table:
    """Return a table for `rich.print`: a row for each sparsity, a column for each experiment."""
    first = experiments[0]
    metric = first["metric"]
    title = f"{first['task']}: {label_of(first, metric)} after pruning"
    table = Table(title=title, caption=caption)
    for head in _heads(experiments):
        table.add_column(head, justify="right")
    for row in _rows(experiments, metric):
        table.add_row(*row)
    return table


def plot_comparison(experiments: Sequence[Results], stem: Path, title: str) -> tuple[Path, Path]:
    """Plot the curves of all experiments; return the paths of the PNG and the SVG."""
    curves = dict(zip(labels_of(experiments), map(curves_of, experiments), strict=True))
    finite = {label: found for label, found in curves.items() if found}
    return plot_results(finite, stem, experiments[0], title)


def comparison_markdown(
    experiments: Sequence[Results], title: str, stem: str, metrics: Sequence[str] = ()
) -> str:
    """Return a page with a table for each metric, the plot, and the source of every figure.

    Args:
        experiments: results on one task, measured at the same sparsities.
        title: heading of the page.
        stem: file name of the plot next to the page, without suffix.
        metrics: metrics of the tables; by default the metric of the experiments, which the plot
            shows in any case.
    """
    metrics = metrics or [experiments[0]["metric"]]
    tables = "\n\n".join(_markdown(experiments, metric) for metric in metrics)
    labels = labels_of(experiments)
    sources = "\n".join(map(_source, labels, experiments))
    return f"# {title}\n\n{tables}\n\n![{title}]({stem}.png)\n\n## Where it comes from\n\n{sources}"


def _label(experiment: Results) -> str:
    """Return the label that was given for the comparison; else that of the method."""
    return experiment.get("label") or METHODS[experiment["method"]].label


def labels_of(experiments: Sequence[Results]) -> list[str]:
    """Return a label of its own for each experiment.

    Experiments of one label get the settings in which they differ, or else a number.
    """
    labels = list(map(_label, experiments))
    settings = [_settings(experiment.get("configuration")) for experiment in experiments]
    told = [
        _told(settings[i], [settings[j] for j, other in enumerate(labels) if other == label])
        for i, label in enumerate(labels)
    ]
    pairs = zip(labels, told, strict=True)
    named = [f"{label} ({tale})" if tale else label for label, tale in pairs]
    return [
        f"{name}, run {named[:i].count(name) + 1}" if named.count(name) > 1 else name
        for i, name in enumerate(named)
    ]


def _settings(configuration: Any) -> dict[str, str]:
    """Return the settings of a configuration by their own names, without those of one run."""
    found: dict[str, str] = {}
    for name, value in (configuration or {}).items():
        if isinstance(value, Mapping):
            found |= _settings(value)
        elif not name.endswith(("_dir", "seed", "seeds", "run_name")):
            found[name] = str(value)
    return found


def _told(own: Mapping[str, str], every: Sequence[Mapping[str, str]], most: int = 2) -> str:
    """Return the settings that differ among experiments; empty if none or too many do."""
    differing = [name for name, value in own.items() if any(o.get(name) != value for o in every)]
    if not 0 < len(differing) <= most:
        return ""
    return ", ".join(f"{name.replace('_', ' ')} {own[name]}" for name in differing)


def _heads(experiments: Sequence[Results]) -> list[str]:
    return [*SHARES, *labels_of(experiments)]


def _rows(experiments: Sequence[Results], metric: str) -> Iterator[list[str]]:
    """Yield the cells of each sparsity."""
    for points in zip(*(e["summary"] for e in experiments), strict=True):
        values = [cell(point["metrics"][metric], point["seeds"]) for point in points]
        yield [*shares_of(points[0]), *values]


def _markdown(experiments: Sequence[Results], metric: str) -> str:
    split = experiments[0].get("split", "validation")  # older results lack it
    table = markdown_table(_heads(experiments), _rows(experiments, metric), left_columns=0)
    return (
        f"{label_of(experiments[0], metric)} on the {split} split after one-shot pruning, with the "
        f"standard deviation over seeds where there are several.\n\n{table}"
    )


def _source(label: str, experiment: Results) -> str:
    """Return the seeds, time, hardware, versions, commit and command of one experiment."""
    environment = experiment["environment"]
    hardware = environment["hardware"]
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    seeds = ", ".join(str(run["seed"]) for run in experiment["runs"])
    return (
        f"{label}: seeds {seeds}; {experiment['seconds'] / 60:.0f} minutes on "
        f"{hardware['cpu']}, {hardware['torch_threads']} thread(s); {versions}; commit "
        f"`{environment['commit']}`\n\n```text\n{experiment['command']}\n```\n"
    )
