"""Writes the results of an experiment: one JSON document, its plot and its table."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TypeGuard

from rich.table import Table

from hf_td.analysis.metrics import decimals_of, metric_label, metric_value
from hf_td.analysis.plots import Curve, plot_curves
from hf_td.analysis.record import environment
from hf_td.files import read_json_object, write_json
from hf_td.tasks.experiment.arguments import Arguments
from hf_td.tasks.experiment.methods import METHODS
from hf_td.tasks.experiment.output import RESULTS
from hf_td.tasks.task import Task

Run = dict[str, Any]
Results = dict[str, Any]

_PROGRAM = "hf-td"  # is run by its name, a script by Python
_SECRETS = ("--token", "--hub_token", "--hub-token")


def assemble(
    arguments: Arguments, task: Task, runs: Sequence[Run], data: Mapping[str, str]
) -> Results:
    """Return the content of results.json.

    Args:
        arguments: arguments of the experiment.
        task: the task.
        runs: the finished runs.
        data: fingerprints of the local data and models.
    """
    ordered = sorted(runs, key=lambda run: run["seed"])
    return {
        "task": task.name,
        "model": arguments.model.model_name_or_path,
        "method": arguments.curve.method,
        "split": task.split,
        "metric": task.metric,
        "lower_is_better": task.lower_is_better,
        "summary": summarise(ordered),
        "runs": ordered,
        "seconds": sum(run["train_seconds"] + run["measure_seconds"] for run in ordered),
        "command": _command(sys.argv),
        "configuration": arguments.configuration(),
        "data": dict(data),
        "environment": environment(),
    }


def write_results(folder: Path, results: Results) -> None:
    """Write results.json, and the plot if there is a finite point."""
    write_json(folder / RESULTS, results)
    curves = curves_of(results)
    if curves:
        title = f"{results['task']}, {original_name(results['model'])}"
        label = METHODS[results["method"]].label
        plot_results({label: curves}, folder / "curve", results, title)


def original_name(model: str) -> str:
    """Return the name of the pretrained model, also for a model that experiments fine-tuned.

    Results that name each other have no first model: then it is the one where they begin again.
    """
    seen: set[str] = set()
    while model not in seen:
        seen.add(model)
        model = _trained_from(model)
    return Path(model).name


def _trained_from(model: str) -> str:
    """Return the model that the results next to a model name, else the model itself."""
    try:
        found = read_json_object(Path(model).parent / RESULTS)
    except (OSError, ValueError):
        return model
    before = found.get("model", model)
    return before if isinstance(before, str) else model


def plot_results(
    curves: Mapping[str, Sequence[Curve]], stem: Path, results: Results, title: str
) -> tuple[Path, Path]:
    """Plot curves of the metric of the results; return the paths of the PNG and the SVG."""
    lower = results.get("lower_is_better", False)  # older results lack it
    return plot_curves(curves, stem, metric=results["metric"], title=title, lower_is_better=lower)


def label_of(results: Results, metric: str) -> str:
    """Return the heading of a metric in tables."""
    lower = results.get("lower_is_better", False) and metric == results["metric"]
    return metric_label(metric, lower_is_better=lower)


def summarise(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return for each sparsity the shares removed, and each metric over the seeds."""
    points = [point for run in runs for point in run["curve"]]
    sparsities = list(dict.fromkeys(point["sparsity"] for point in points))
    return [_summarise([p for p in points if p["sparsity"] == s]) for s in sparsities]


def _summarise(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = points[0]["metrics"]
    shares = ("sparsity", "removed_prunable", "removed_of_all")
    return {
        **{share: points[0][share] for share in shares},
        "seeds": len(points),
        "metrics": {name: spread_of([p["metrics"][name] for p in points]) for name in names},
    }


def is_finite(value: float | None) -> TypeGuard[float]:
    """Return True for a finite number; files have None for others."""
    return value is not None and math.isfinite(value)


def spread_of(values: Sequence[float | None]) -> dict[str, float] | None:
    """Return mean, standard deviation, minimum and maximum; None if a value is not finite."""
    known = [value for value in values if is_finite(value)]
    if len(known) < len(values):
        return None
    deviation = stdev(known) if len(known) > 1 else 0.0
    return {"mean": fmean(known), "std": deviation, "min": min(known), "max": max(known)}


def curves_of(results: Results) -> list[dict[float, float]]:
    """Return for each seed the finite values of the experiment's metric by sparsity."""
    name = results["metric"]
    values = [{p["sparsity"]: p["metrics"][name] for p in run["curve"]} for run in results["runs"]]
    curves = [{s: v for s, v in curve.items() if is_finite(v)} for curve in values]
    return [curve for curve in curves if curve]


def results_table(results: Results) -> Table:
    """Return a table for `rich.print`: a row for each sparsity."""
    seeds = len(results["runs"])
    title = f"{results['task']}: {METHODS[results['method']].label}, {seeds} seed(s)"
    table = Table(title=title, caption=_one_answer(results["runs"]))
    points = results["summary"]
    names = [n for n in (points[0]["metrics"] if points else ()) if not n.endswith("loss")]
    for head in (*SHARES, *(label_of(results, name) for name in names)):
        table.add_column(head, justify="right")
    for point in points:
        values = [cell(point["metrics"][name], point["seeds"]) for name in names]
        table.add_row(*shares_of(point, decimals=1), *values)
    return table


# The headings of what `shares_of` returns.
SHARES = ("sparsity asked for", "of the prunable weights", "of all parameters")


def shares_of(point: Mapping[str, Any], decimals: int = 0) -> list[str]:
    """Return the sparsity that was asked for, and the shares that were removed, as texts."""
    shares = (point["sparsity"], point["removed_prunable"], point["removed_of_all"])
    return [f"{share:.{decimals}%}" for share in shares]


def _one_answer(runs: Sequence[Run]) -> str | None:
    """Return a line on the sparsities at which a model gives one answer for every row, if any."""
    places = sorted({sparsity for run in runs for sparsity in run.get("one_answer", ())})
    shown = ", ".join(f"{sparsity:.0%}" for sparsity in places)
    return f"one answer for every row at {shown}" if places else None


def cell(spread: dict[str, float] | None, seeds: int) -> str:
    """Format the mean of a metric, with the standard deviation if there are several seeds."""
    if spread is None:
        return metric_value(None)
    mean = metric_value(spread["mean"])
    deviation = metric_value(spread["std"], decimals=decimals_of(spread["mean"]))
    return f"{mean} ± {deviation}" if seeds > 1 else mean


def _command(argv: Sequence[str]) -> str:
    """Return the command line without tokens."""
    is_program = Path(argv[0]).name == _PROGRAM
    shown = [_PROGRAM] if is_program else ["python", argv[0]]
    for before, word in pairwise(argv):
        name, equals, _ = word.partition("=")
        if before in _SECRETS:
            word = "..."
        elif name in _SECRETS and equals:
            word = f"{name}=..."
        shown.append(word)
    return shlex.join(shown)
