"""Declares `hf-td prune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hf_td.cli.answers import give
from hf_td.cli.options import (
    RANKING,
    TIMING,
    WRITING,
    AsJson,
    CalibrationRows,
    CalibrationTexts,
    ExampleInputs,
    Form,
    Importance,
    KeepHeadsStock,
    LabelColumn,
    Level,
    Model,
    MultipleOf,
    Output,
    Overwrite,
    TextColumn,
    Threads,
    TrustRemoteCode,
    examples,
)
from hf_td.hub.forms import AUTO

EPILOG = examples(
    "hf-td prune MODEL small --sparsity 0.75",
    "hf-td prune MODEL small --sparsity attention=0.5 feed_forward=0.75",
    "hf-td prune MODEL small --speedup 2 --batch 8 --length 128",
    "hf-td prune MODEL small --max-loss 0.01 --evaluate dev.csv --json",
)
AMOUNT = "How much"


def prune(
    model: Model,
    output: Output,
    parts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PART=AMOUNT]...", help="further parts of --sparsity"),
    ] = None,
    sparsity: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FRACTION",
            help="fraction of the prunable weights to remove, in [0, 1], or for each part one or a "
            "number of units: --sparsity attention=0.5 feed_forward=0.75 layers=2",
            rich_help_panel=AMOUNT,
        ),
    ] = None,
    units: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="in place of a sparsity, the units to remove: a JSON file such as "
            '{"heads": {"0": [1, 3]}, "neurons": {"5": [0, 7]}}',
            rich_help_panel=AMOUNT,
        ),
    ] = None,
    speedup: Annotated[
        float | None,
        typer.Option(
            help="in place of a sparsity, how many times as fast a forward should be on this "
            "machine, for --batch texts of --length tokens",
            rich_help_panel=AMOUNT,
        ),
    ] = None,
    max_bytes: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="in place of a sparsity, what all exported files may take, such as 25MB",
            rich_help_panel=AMOUNT,
        ),
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(
            help="in place of a sparsity, or beside a speed or size: the fraction of the metric "
            "that may be lost, such as 0.01; perplexity of a language model, accuracy of a "
            "classifier",
            rich_help_panel=AMOUNT,
        ),
    ] = None,
    evaluate: Annotated[
        str | None,
        typer.Option(
            metavar="TEXTS",
            help="texts to measure --max-loss on, for a classifier with labels; without "
            "it, rows of --calibration that come after --calibration-rows",
            rich_help_panel=AMOUNT,
        ),
    ] = None,
    evaluate_rows: Annotated[
        int,
        typer.Option(
            min=1,
            help="the most rows that --max-loss is measured on",
            rich_help_panel=AMOUNT,
        ),
    ] = 512,
    batch: Annotated[
        int,
        typer.Option(
            min=1,
            help="rows of the inputs that are timed",
            rich_help_panel=TIMING,
        ),
    ] = 1,
    length: Annotated[
        int,
        typer.Option(
            min=1,
            help="tokens of a row that is timed, or of a calibration text",
            rich_help_panel=TIMING,
        ),
    ] = 128,
    threads: Threads = None,
    level: Level = None,
    importance: Importance = None,
    calibration: CalibrationTexts = None,
    calibration_rows: CalibrationRows = 128,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    compensate: Annotated[
        Literal["least_squares", "mean"] | None,
        typer.Option(
            help="with a --calibration, make up for removed heads and neurons in the weights that "
            "read the others, or by their means in a bias",
            rich_help_panel=RANKING,
        ),
    ] = None,
    form: Form = AUTO,
    budget: Annotated[
        Literal["uniform", "global"],
        typer.Option(
            help="remove the same fraction of every layer, or the lowest of all layers",
            rich_help_panel=RANKING,
        ),
    ] = "uniform",
    of: Annotated[
        Literal["units", "parameters", "flops", "latency"] | None,
        typer.Option(
            help="what a global budget spends; latency is measured on this machine",
            rich_help_panel=RANKING,
        ),
    ] = None,
    times: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="for --of latency, a JSON file with the table of times; it is measured and "
            "written if there is none",
            rich_help_panel=RANKING,
        ),
    ] = None,
    keep_heads_stock: KeepHeadsStock = False,
    multiple_of: MultipleOf = 8,
    from_disk: Annotated[
        bool,
        typer.Option(
            "--from-disk",
            help="read, prune and write a block at a time, for a model that does not fit into "
            "memory; MODEL is a folder with safetensors files, and the result is not compared",
            rich_help_panel=WRITING,
        ),
    ] = False,
    overwrite: Overwrite = False,
    example_inputs: ExampleInputs = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Prune a model in one shot, take out its pruned units, and export it.

    A model trained by targeted dropout is ranked as in its training, any other by magnitude.

    The export is loaded again and its outputs are compared before it is kept. The exit code is 3
    where a wish is missed by the last measurement; the export is written then too.
    """
    from hf_td.cli.amounts import Amount
    from hf_td.cli.calibrating import Calibration
    from hf_td.cli.columns import columns_of
    from hf_td.cli.evaluating import Evaluation
    from hf_td.cli.pruning import prune_and_export
    from hf_td.cli.spending import Spending

    calibrating = Calibration(
        source=calibration,
        rows=calibration_rows,
        length=length,
        compensate=compensate,
        columns=columns_of(model, text_column, label_column),
    )
    give(
        lambda: prune_and_export(
            model,
            output,
            amount=Amount.of(
                [*(sparsity or ()), *(parts or ())], units, speedup, max_bytes, max_loss
            ),
            spending=Spending(
                budget=budget, of=of, times=times, batch=batch, length=length, threads=threads
            ),
            calibration=calibrating,
            evaluation=Evaluation(source=evaluate, rows=evaluate_rows, calibration=calibrating),
            level=level,
            importance=importance,
            form=form,
            keep_heads_stock=keep_heads_stock,
            multiple_of=multiple_of,
            from_disk=from_disk,
            overwrite=overwrite,
            example_inputs=example_inputs,
            trust_remote_code=trust_remote_code,
        ),
        as_json=as_json,
    )
