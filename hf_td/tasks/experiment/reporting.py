"""Turns the results of runs into the report page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

from hf_td.files import read_json_object
from hf_td.hub.card.text import without_paths
from hf_td.report import Entry, Point, Report, Series, Units, render_page
from hf_td.tasks.errors import UsageError, blaming_input
from hf_td.tasks.experiment.comparison import labels_of
from hf_td.tasks.experiment.output import RESULTS
from hf_td.tasks.experiment.results import Results, curves_of, is_finite, original_name


def read_results(path: Path) -> Results:
    """Read the results of one run.

    Args:
        path: results.json, or the folder that it is in.

    Raises:
        UsageError: the file has no results.
    """
    file = path / RESULTS if path.is_dir() else path
    try:
        results = read_json_object(file)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} has no results ({error}). Give the folder of a run, or its {RESULTS}."
        ) from error
    if "summary" not in results:
        raise UsageError(f"{path} has no results. Give the folder of a run, or its {RESULTS}.")
    return results


def report_page(experiments: Sequence[Results], title: str | None = None) -> str:
    """Return the page of one run, or of several runs on one task.

    Args:
        experiments: contents of results.json.
        title: of the page; by default the task, and the model of a single run.

    Raises:
        UsageError: the runs differ in task, split or metric, one measured nothing, one is no
            record of a run, or matplotlib or jinja2 is missing.
    """
    with recorded_by_a_run():
        return render_page(report_of(experiments, title))


@contextmanager
def recorded_by_a_run() -> Iterator[None]:
    """Raise UsageError in the block for results that no run of hf_td wrote."""
    try:
        with blaming_input():
            yield
    except (LookupError, AttributeError, ArithmeticError) as error:
        raise UsageError(
            f"the results cannot be read: {error!r} is missing or of another kind. Give results "
            "that a run of hf_td wrote."
        ) from error


def report_of(experiments: Sequence[Results], title: str | None = None) -> Report:
    """Return the values that the page of some runs shows.

    Raises:
        ValueError: as for `report_page`.
    """
    first = experiments[0]
    for name in ("task", "split", "metric"):
        found = list(dict.fromkeys(str(one.get(name, "validation")) for one in experiments))
        if len(found) > 1:
            raise ValueError(
                f"the runs have several values of {name}: {', '.join(found)}. Runs on one page "
                f"need the same {name}. Make a page for each"
            )
    model = f", {original_name(first['model'])}" if len(experiments) == 1 else ""
    return Report(
        title=title or f"{first['task']}{model}: the metric after pruning",
        task=first["task"],
        split=first.get("split", "validation"),  # older results lack it
        metric=first["metric"],
        lower_is_better=first.get("lower_is_better", False),
        series=tuple(map(_series, labels_of(experiments), experiments)),
    )


def _series(label: str, results: Results) -> Series:
    runs = results["runs"]
    sparsities = sorted({point["sparsity"] for run in runs for point in run["curve"]})
    logged = next((run["log"] for run in runs if run.get("log")), [])
    return Series(
        label=label,
        seeds=tuple(run["seed"] for run in runs),
        points=tuple(_point(results, sparsity) for sparsity in sparsities),
        curves=tuple(curves_of(results)),
        log=tuple(Entry(step=entry["step"], values=_numbers(entry)) for entry in logged),
        timing=_timing(runs),
        facts=_facts(results),
        notes=_notes(runs),
    )


def _point(results: Results, sparsity: float) -> Point:
    runs = results["runs"]
    points = [p for run in runs for p in run["curve"] if p["sparsity"] == sparsity]
    costs = [c for run in runs for c in run.get("costs", ()) if c["sparsity"] == sparsity]
    values = [point["metrics"][results["metric"]] for point in points]
    # The mean over the finite seeds alone would hide that a seed diverged.
    finite = tuple(value for value in values if is_finite(value))
    return Point(
        sparsity=sparsity,
        removed_prunable=points[0]["removed_prunable"],
        removed_of_all=points[0]["removed_of_all"],
        metric=finite if len(finite) == len(values) else (),
        parameters=_mean([cost["parameters"] for cost in costs]),
        bytes=_mean([cost["bytes"] for cost in costs]),
        milliseconds=_mean([cost["latency"]["compact"]["median"] for cost in costs]),
        dense_milliseconds=_mean([cost["latency"]["dense"]["median"] for cost in costs]),
        units=_units([point.get("blocks", ()) for point in points]),
    )


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _units(of_seeds: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[Units, ...]:
    """Return the units of each block, as the mean over the seeds that counted it."""
    by_block: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for blocks in of_seeds:
        for block in blocks:
            by_block.setdefault((block["name"], block["part"]), []).append(block)
    return tuple(
        Units(
            block=name,
            part=part,
            kept=fmean(block["total"] - block["removed"] for block in found),
            total=found[0]["total"],
        )
        for (name, part), found in by_block.items()
    )


def _numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    return {n: float(value) for n, value in entry.items() if n != "step" and is_finite(value)}


def _timing(runs: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the conditions of the measured times, in words."""
    timed = [cost["latency"] for run in runs for cost in run.get("costs", ())]
    if not timed:
        return None
    one = timed[0]
    shape = " by ".join(map(str, one["shape"]))
    return (
        f"Times are medians of {one['runs']} forwards of inputs of shape {shape} on "
        f"{one['hardware']}, {one['threads']} thread(s), {one['dtype']}; the model with all its "
        "units was timed in turn with the smaller one."
    )


def _notes(runs: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    places = sorted({sparsity for run in runs for sparsity in run.get("one_answer", ())})
    if not places:
        return ()
    shown = ", ".join(f"{sparsity:.0%}" for sparsity in places)
    return (f"With {shown} removed a model gives one answer for every row, so it knows nothing.",)


def _facts(results: Results) -> dict[str, str]:
    environment = results["environment"]
    hardware, versions = environment["hardware"], environment["versions"]
    training = [run["training"] for run in results["runs"] if run.get("training")]
    facts = {
        "Model": original_name(results["model"]),
        "Method": labels_of([results])[0],
        "Seeds": ", ".join(str(run["seed"]) for run in results["runs"]),
        "Updates": ", ".join(str(one["updates"]) for one in training),
        "Time": f"{results['seconds'] / 60:.1f} minutes",
        "Hardware": f"{hardware['cpu']}, {hardware['torch_threads']} thread(s)",
        "Accelerators": ", ".join(hardware.get("gpus", ())),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Commit": environment["commit"] or "",
        "Command": without_paths(results["command"]),
    }
    return {name: text for name, text in facts.items() if text}
