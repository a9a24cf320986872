"""Declares `hf-td curve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_td.cli.answers import give
from hf_td.cli.options import (
    TIMING,
    AsJson,
    CalibrationRows,
    CalibrationTexts,
    ExampleInputs,
    Importance,
    LabelColumn,
    Length,
    Level,
    Model,
    Rounds,
    TextColumn,
    Threads,
    TrustRemoteCode,
    examples,
)

EPILOG = examples(
    "hf-td curve MODEL --evaluate dev.csv --plot curve",
    "hf-td curve MODEL --sparsity 0 0.5 --batch 8 --length 64 --json",
)
_SPARSITIES = [0.0, 0.25, 0.5, 0.75]


def curve(
    model: Model,
    sparsities: Annotated[
        list[float] | None,
        typer.Argument(metavar="FRACTION", help="further fractions of --sparsity"),
    ] = None,
    sparsity: Annotated[
        list[float] | None,
        typer.Option(
            metavar="FRACTION",
            help="fractions of the prunable weights to remove, in [0, 1]: --sparsity 0 0.5; by "
            "default 0, 0.25, 0.5 and 0.75",
        ),
    ] = None,
    evaluate: Annotated[
        str | None,
        typer.Option(
            metavar="TEXTS",
            help="texts to measure the metric on: perplexity of a language model, or accuracy of a "
            "classifier, which needs labels. Without it no metric is measured",
        ),
    ] = None,
    evaluate_rows: Annotated[
        int, typer.Option(min=1, help="the most rows that the metric is measured on")
    ] = 512,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="STEM",
            help="write STEM.png and STEM.svg: the metric, or without one the milliseconds",
        ),
    ] = None,
    level: Level = None,
    importance: Importance = None,
    calibration: CalibrationTexts = None,
    calibration_rows: CalibrationRows = 128,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    batch: Annotated[
        int, typer.Option(min=1, help="rows of the inputs that are timed", rich_help_panel=TIMING)
    ] = 1,
    length: Length = 128,
    threads: Threads = None,
    rounds: Rounds = 30,
    example_inputs: ExampleInputs = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Measure the metric, the bytes and the milliseconds at every sparsity. Nothing is exported.

    The model is pruned to each sparsity in turn. What is timed is the compact model on this
    machine, in turn with the whole one.
    """
    from hf_td.cli.calibrating import Calibration
    from hf_td.cli.columns import columns_of
    from hf_td.cli.curving import measure_curve
    from hf_td.cli.evaluating import Evaluation
    from hf_td.wishes.measures import Shape

    calibrating = Calibration(
        source=calibration,
        rows=calibration_rows,
        length=length,
        compensate=None,
        columns=columns_of(model, text_column, label_column),
    )
    give(
        lambda: measure_curve(
            model,
            [*(sparsity or ()), *(sparsities or ())] or _SPARSITIES,
            evaluation=Evaluation(source=evaluate, rows=evaluate_rows, calibration=calibrating),
            calibration=calibrating,
            ranking={"level": level, "importance": importance},
            shape=Shape(batch=batch, length=length, threads=threads),
            rounds=rounds,
            plot=plot,
            example_inputs=example_inputs,
            trust_remote_code=trust_remote_code,
        ),
        as_json=as_json,
    )
