"""Puts experiments on the same task side by side: one table, one plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from hf_td.tasks.experiment.methods import METHODS
from hf_td.tasks.experiment.results import Results, cell, curves_of, label_of, plot_results


def comparison_table(experiments: Sequence[Results], caption: str | None = None) -> Table:
    """For `rich.print`: a line for each sparsity, a column with the metric for each method."""
    first = experiments[0]
    name = first["metric"]
    title = f"{first['task']}: {label_of(first, name)} after pruning"
    table = Table(title=title, caption=caption)
    for head in ("sparsity", "of all parameters", *(_label(e) for e in experiments)):
        table.add_column(head, justify="right")
    for points in zip(*(e["summary"] for e in experiments), strict=True):
        values = [cell(point["metrics"][name], point["seeds"]) for point in points]
        shares = f"{points[0]['sparsity']:.0%}", f"{points[0]['removed_of_all']:.0%}"
        table.add_row(*shares, *values)
    return table


def plot_comparison(experiments: Sequence[Results], stem: Path, title: str) -> tuple[Path, Path]:
    """Plot the curves of all methods; returns the paths of the PNG and the SVG."""
    curves = {_label(experiment): curves_of(experiment) for experiment in experiments}
    finite = {label: found for label, found in curves.items() if found}
    return plot_results(finite, stem, experiments[0], title)


def _label(experiment: Results) -> str:
    """What it was called when it was compared; else its method."""
    return experiment.get("label") or METHODS[experiment["method"]].label


def comparison_markdown(
    experiments: Sequence[Results], title: str, stem: str, metrics: Sequence[str] = ()
) -> str:
    """A page with a table for each metric, the plot, and where every figure comes from.

    Args:
        experiments: results on one task, measured at the same sparsities.
        title: heading of the page.
        stem: name, without its ending, of the plot beside the page.
        metrics: of the tables; the one of the experiments where none are named. The plot shows
            that one in any case.
    """
    metrics = metrics or [experiments[0]["metric"]]
    tables = "\n\n".join(_table(experiments, metric) for metric in metrics)
    sources = "\n".join(_source(experiment) for experiment in experiments)
    return f"# {title}\n\n{tables}\n\n![{title}]({stem}.png)\n\n## Where it comes from\n\n{sources}"


def _table(experiments: Sequence[Results], metric: str) -> str:
    """What is measured, and a line for each sparsity."""
    heads = ["sparsity", "of all parameters", *map(_label, experiments)]
    rows = [heads, ["---:"] * len(heads)]
    for points in zip(*(e["summary"] for e in experiments), strict=True):
        values = [cell(p["metrics"][metric], p["seeds"]) for p in points]
        shares = f"{points[0]['sparsity']:.0%}", f"{points[0]['removed_of_all']:.0%}"
        rows.append([*shares, *values])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    split = experiments[0].get("split", "validation")  # which older results do not say
    return (
        f"{label_of(experiments[0], metric)} on the {split} split after one-shot pruning, with the "
        f"standard deviation over seeds where there are several.\n\n{table}"
    )


def _source(experiment: Results) -> str:
    """The command, versions, hardware, seeds and commit of one experiment."""
    environment = experiment["environment"]
    hardware = environment["hardware"]
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    seeds = ", ".join(str(run["seed"]) for run in experiment["runs"])
    return (
        f"{_label(experiment)}: seeds {seeds}; {experiment['seconds'] / 60:.0f} minutes on "
        f"{hardware['cpu']}, {hardware['torch_threads']} thread(s); {versions}; commit "
        f"`{environment['commit']}`\n\n```text\n{experiment['command']}\n```\n"
    )
