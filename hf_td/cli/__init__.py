"""The program `hf-td`: inspects and prunes trained models.

    hf-td inspect MODEL
    hf-td prune MODEL OUTPUT --sparsity 0.75 --level unit
    hf-td prune MODEL OUTPUT --speedup 2 --batch 8 --length 128
    hf-td trim MODEL OUTPUT --texts train.csv
    hf-td report RUN
    hf-td compare RUN RUN --output page.html

MODEL is a folder or an id on the Hub. For fine-tuning, use the scripts. This module only declares
the options: a command imports torch and transformers when it runs, so `--help` needs neither.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hf_td import __version__
from hf_td.hub.forms import AUTO, form_choices, forms_help
from hf_td.tasks.errors import run_program

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="a folder, or an id on the Hub")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="run the code in the model's repository")
]
ExampleInputs = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="inputs of one forward, for a model that runs on none that hf_td can make: a .json "
        'file, such as {"input_ids": [[101, 2054, 102]]}, or a .safetensors file',
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"hf_td {__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="print the version and exit"
        ),
    ] = False,
) -> None:
    """Make Hugging Face Transformers small."""


@app.command()
def inspect(
    model: Model,
    example_inputs: ExampleInputs = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Print the blocks of a model, their units, and the levels at which they can be pruned."""
    from hf_td.cli.inspection import print_blocks

    print_blocks(model, example_inputs=example_inputs, trust_remote_code=trust_remote_code)


@app.command()
def prune(
    model: Model,
    output: Annotated[Path, typer.Argument(help="the folder to write")],
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
        ),
    ] = None,
    units: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="in place of a sparsity, the units to remove: a JSON file such as "
            '{"heads": {"0": [1, 3]}, "neurons": {"5": [0, 7]}}',
        ),
    ] = None,
    speedup: Annotated[
        float | None,
        typer.Option(
            help="in place of a sparsity, how many times as fast a forward should be on this "
            "machine, for --batch texts of --length tokens"
        ),
    ] = None,
    max_bytes: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="in place of a sparsity, what all exported files may take, such as 25MB",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="rows of the inputs that are timed")] = 1,
    length: Annotated[
        int, typer.Option(min=1, help="tokens of a row that is timed, or of a calibration text")
    ] = 128,
    threads: Annotated[
        int | None, typer.Option(min=1, help="threads of torch while it is timed")
    ] = None,
    level: Annotated[
        Literal["weight", "unit"] | None,
        typer.Option(
            help="single weights (the files get no smaller), or heads and neurons; by default the "
            "level of a training by targeted dropout, else heads and neurons"
        ),
    ] = None,
    importance: Annotated[
        Literal["magnitude", "activation", "learned", "random", "taylor", "movement"] | None,
        typer.Option(
            help="ranking of weights or units; by default that of the training, whose file of "
            "activations or learned scores must be saved next to the weights, or activation with "
            "a --calibration, which taylor and movement need"
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            metavar="TEXTS",
            help="texts to measure importance on: any file of text, a table (csv, json, parquet), "
            "a local folder, or an id on the Hub",
        ),
    ] = None,
    calibration_rows: Annotated[
        int, typer.Option(min=1, help="how many rows of --calibration are used")
    ] = 128,
    compensate: Annotated[
        Literal["least_squares", "mean"] | None,
        typer.Option(
            help="with a --calibration, make up for removed heads and neurons in the weights that "
            "read the others, or by their means in a bias"
        ),
    ] = None,
    form: Annotated[
        str, typer.Option(help=forms_help(), metavar=f"[{'|'.join(form_choices())}]")
    ] = AUTO,
    budget: Annotated[
        Literal["uniform", "global"],
        typer.Option(help="remove the same fraction of every layer, or the lowest of all layers"),
    ] = "uniform",
    of: Annotated[
        Literal["units", "parameters", "flops", "latency"] | None,
        typer.Option(help="what a global budget spends; latency is measured on this machine"),
    ] = None,
    times: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="for --of latency, a JSON file with the table of times; it is measured and "
            "written if there is none",
        ),
    ] = None,
    keep_heads_stock: Annotated[
        bool,
        typer.Option(
            "--keep-heads-stock",
            help="keep all heads (pruned ones as zeros) where a stock config cannot say fewer, as "
            "for BERT, so that the result loads with transformers alone",
        ),
    ] = False,
    from_disk: Annotated[
        bool,
        typer.Option(
            "--from-disk",
            help="read, prune and write a block at a time, for a model that does not fit into "
            "memory; MODEL is a folder with safetensors files, and the result is not compared",
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace the contents of the folder")
    ] = False,
    example_inputs: ExampleInputs = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Prune a model in one shot, take out its pruned units, and export it.

    A model trained by targeted dropout is ranked as in its training, any other by magnitude.

    The export is loaded again and its outputs are compared before it is kept.
    """
    from hf_td.cli.amounts import Amount
    from hf_td.cli.calibrating import Calibration
    from hf_td.cli.pruning import prune_and_export
    from hf_td.cli.spending import Spending

    prune_and_export(
        model,
        output,
        amount=Amount.of([*(sparsity or ()), *(parts or ())], units, speedup, max_bytes),
        spending=Spending(
            budget=budget, of=of, times=times, batch=batch, length=length, threads=threads
        ),
        calibration=Calibration(
            source=calibration, rows=calibration_rows, length=length, compensate=compensate
        ),
        level=level,
        importance=importance,
        form=form,
        keep_heads_stock=keep_heads_stock,
        from_disk=from_disk,
        overwrite=overwrite,
        example_inputs=example_inputs,
        trust_remote_code=trust_remote_code,
    )


@app.command()
def trim(
    model: Model,
    output: Annotated[Path, typer.Argument(help="the folder to write")],
    texts: Annotated[
        list[Path],
        typer.Option(
            metavar="FILE",
            help="texts whose tokens stay, such as the training set: .txt, .csv, .json, .jsonl or "
            ".parquet; may be given several times",
        ),
    ],
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TOKEN", help="a further token that stays; may be given several times"
        ),
    ] = None,
    min_count: Annotated[
        int, typer.Option(min=1, help="how often a token has to occur in the texts")
    ] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace the contents of the folder")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Take the tokens that no text uses out of a model and its tokenizer, and export both.

    Texts of the kept tokens are split as before. Any other text is split into smaller tokens.
    """
    from hf_td.cli.trimming import trim_and_export

    trim_and_export(
        model,
        output,
        texts=texts,
        keep=keep or (),
        min_count=min_count,
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
    )


Title = Annotated[str | None, typer.Option(help="title of the page")]


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="folder of a run, or results.json")],
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="the page; by default RUN/report.html")
    ] = None,
    title: Title = None,
) -> None:
    """Write the results of a run as one HTML page, which needs no network."""
    from hf_td.cli.reporting import write_report

    write_report([run], output, title)


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="folders of runs, or results.json")
    ],
    output: Annotated[Path, typer.Option(metavar="FILE", help="the page")] = Path("report.html"),
    title: Title = None,
) -> None:
    """Write the results of several runs on one task as one HTML page, which needs no network."""
    from hf_td.cli.reporting import write_report

    write_report(runs, output, title)


def main() -> None:
    """Run `hf-td`. An error in the user's input prints one message and exits with status 2."""
    run_program(app)
