"""Compares experiments on one task: a table, a plot, a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table

from hf_td.analysis.tables import markdown_table
from hf_td.tasks.experiment.methods import METHODS
from hf_td.tasks.experiment.results import Results, cell, curves_of, label_of, plot_results


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
    curves = {_label(experiment): curves_of(experiment) for experiment in experiments}
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
    sources = "\n".join(_source(experiment) for experiment in experiments)
    return f"# {title}\n\n{tables}\n\n![{title}]({stem}.png)\n\n## Where it comes from\n\n{sources}"


def _label(experiment: Results) -> str:
    """Return the label that was given for the comparison; else that of the method."""
    return experiment.get("label") or METHODS[experiment["method"]].label


def _heads(experiments: Sequence[Results]) -> list[str]:
    return ["sparsity", "of all parameters", *map(_label, experiments)]


def _rows(experiments: Sequence[Results], metric: str) -> Iterator[list[str]]:
    """Yield the cells of each sparsity."""
    for points in zip(*(e["summary"] for e in experiments), strict=True):
        values = [cell(point["metrics"][metric], point["seeds"]) for point in points]
        yield [f"{points[0]['sparsity']:.0%}", f"{points[0]['removed_of_all']:.0%}", *values]


def _markdown(experiments: Sequence[Results], metric: str) -> str:
    split = experiments[0].get("split", "validation")  # older results lack it
    table = markdown_table(_heads(experiments), _rows(experiments, metric), left_columns=0)
    return (
        f"{label_of(experiments[0], metric)} on the {split} split after one-shot pruning, with the "
        f"standard deviation over seeds where there are several.\n\n{table}"
    )


def _source(experiment: Results) -> str:
    """Return the seeds, time, hardware, versions, commit and command of one experiment."""
    environment = experiment["environment"]
    hardware = environment["hardware"]
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    seeds = ", ".join(str(run["seed"]) for run in experiment["runs"])
    return (
        f"{_label(experiment)}: seeds {seeds}; {experiment['seconds'] / 60:.0f} minutes on "
        f"{hardware['cpu']}, {hardware['torch_threads']} thread(s); {versions}; commit "
        f"`{environment['commit']}`\n\n```text\n{experiment['command']}\n```\n"
    )
