"""Measures the metric, the bytes and the time at every sparsity: `hf-td curve`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from hf_td.analysis import pruning_curve
from hf_td.analysis.curve import CurvePoint
from hf_td.analysis.metrics import metric_label, metric_value
from hf_td.analysis.plots import plot_curves
from hf_td.anatomy import read_anatomy
from hf_td.cli.answers import Answer
from hf_td.cli.calibrating import Calibration
from hf_td.cli.evaluating import Evaluation, Metric
from hf_td.cli.loading import load_model, load_processor
from hf_td.cli.pruning import default_level, exceeds
from hf_td.cli.shrinking import weight_bytes
from hf_td.hub import Latency, measure_latency
from hf_td.hub.export import cut_to_form, shell_of
from hf_td.pruning import check_sparsity
from hf_td.tasks.errors import blaming_input
from hf_td.tasks.example_inputs import read_example_inputs
from hf_td.tasks.progress import Job, Part
from hf_td.wishes.inputs import sized_inputs, threads_of_torch
from hf_td.wishes.measures import Shape


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A model pruned to one sparsity.

    Attributes:
        point: the sparsity, what was removed, and the metric.
        bytes: of the weights that are left.
        latency: of the whole and of the compact model.
    """

    point: CurvePoint
    bytes: int
    latency: Latency

    def values(self) -> dict[str, Any]:
        """Return the JSON form."""
        latency = {**asdict(self.latency), "speedup": self.latency.speedup}
        return {**asdict(self.point), "bytes": self.bytes, "latency": latency}


def measure_curve(
    name: str,
    sparsities: Sequence[float],
    *,
    evaluation: Evaluation,
    calibration: Calibration,
    ranking: Mapping[str, str | None],
    shape: Shape,
    rounds: int,
    plot: Path | None,
    example_inputs: Path | None,
    trust_remote_code: bool,
) -> Answer:
    """Return the metric, the bytes and the milliseconds of a model at every sparsity.

    Args:
        name: a folder, or an id on the Hub.
        sparsities: fractions of the prunable weights, in [0, 1].
        evaluation: data of the metric; without any, none is measured.
        calibration: texts that importance is measured on.
        ranking: `level` and `importance`, or None for those of the training.
        shape: of the inputs that are timed.
        rounds: timed forwards of each model, at least 2.
        plot: where to write a plot, without a suffix; None for no plot.
        example_inputs: file with inputs of one forward, or None.
        trust_remote_code: run the code in the model's repository.

    Raises:
        UsageError: an argument cannot work.
    """
    with blaming_input():
        for sparsity in sparsities:
            check_sparsity(sparsity)
    calibration.check(ranking["importance"])
    model, source = load_model(name, trust_remote_code=trust_remote_code)
    processor = load_processor(source)
    given = {key: value for key, value in ranking.items() if value is not None}
    with blaming_input():
        inputs = read_example_inputs(example_inputs, model)
        read: dict[str, Any] = {"anatomy": read_anatomy(model, inputs), "example_inputs": inputs}
        how = {**default_level(model.config, ranking["importance"]), **given, **read}
        how |= calibration.options(model, processor, ranking["importance"])
        metric = None if evaluation.source is None else evaluation.metric(model, processor)
        found = _measure(model, sparsities, metric, shape, rounds, how, read)
        files = () if plot is None else _plot(found, metric, name, plot)
    first = found[0].latency
    shown = [
        _table(found, metric),
        f"milliseconds of a forward: median (quartiles) of {rounds}; shape {first.shape}, "
        f"{first.threads} threads, {first.dtype}, {first.hardware}",
        *_surplus(found),
        *(f"{metric.name} on {metric.rows} rows of {evaluation.source}" for _ in [0] if metric),
        *(f"plot: {file}" for file in files),
    ]
    values = {"curve": [one.values() for one in found], "plot": list(map(str, files))}
    return Answer(shown=tuple(shown), values=values)


def _measure(
    model: Any,
    sparsities: Sequence[float],
    metric: Metric | None,
    shape: Shape,
    rounds: int,
    how: Mapping[str, Any],
    read: Mapping[str, Any],
) -> list[Measured]:
    whole = shell_of(model)
    inputs = read["example_inputs"] or sized_inputs(whole, shape.batch, shape.length)
    cuts: list[dict[str, Any]] = []

    def measure(masked: Any) -> dict[str, float]:
        cut = cut_to_form(masked, check=False, **read).model
        with threads_of_torch(shape.threads):
            latency = measure_latency(whole, cut, inputs, runs=rounds)
        cuts.append({"bytes": weight_bytes(cut), "latency": latency})
        return {} if metric is None else {metric.name: metric.evaluate(masked)}

    with closing(Job({"measuring": Part(units=len(sparsities), rows=1)})) as job:

        def reported(masked: Any) -> dict[str, float]:
            found = measure(masked)
            job.advance("measuring", 1)
            return found

        points = pruning_curve(model, sparsities, reported, **how)
    return [Measured(point=point, **cut) for point, cut in zip(points, cuts, strict=True)]


def _surplus(found: Sequence[Measured]) -> Iterator[str]:
    """Say where the model had more zeros than a sparsity asks for."""
    points = (one.point for one in found)
    more = [p.sparsity for p in points if exceeds(p.removed_prunable, p.sparsity)]
    if more:
        yield f"more than {', '.join(f'{s:.1%}' for s in more)}: the other weights were zero before"


def _table(found: Sequence[Measured], metric: Metric | None) -> Table:
    heads = ["sparsity", "of prunable", "of all"]
    heads += [] if metric is None else [_label(metric)]
    table = Table(*heads, "MB of weights", "ms", "times as fast")
    for one in found:
        point = one.point
        shares = (point.sparsity, point.removed_prunable, point.removed_of_all)
        row = [f"{share:.1%}" for share in shares]
        row += [metric_value(value) for value in point.metrics.values()]
        latency = one.latency
        row += [f"{one.bytes / 1e6:.1f}", str(latency.compact), f"{latency.speedup:.2f}"]
        table.add_row(*row)
    return table


def _label(metric: Metric) -> str:
    return metric_label(metric.name, lower_is_better=metric.lower_is_better)


def _plot(
    found: Sequence[Measured], metric: Metric | None, name: str, stem: Path
) -> tuple[Path, Path]:
    """Plot the metric, or without one the milliseconds."""
    if metric is None:
        label, lower = "milliseconds of a forward", False
        curve = {one.point.sparsity: one.latency.compact.median for one in found}
    else:
        label, lower = metric.name, metric.lower_is_better
        curve = {one.point.sparsity: one.point.metrics[metric.name] for one in found}
    title = Path(name).name
    return plot_curves({title: [curve]}, stem, metric=label, title=title, lower_is_better=lower)
