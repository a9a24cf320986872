"""The program `hf-td`: inspects and prunes trained models.

    hf-td inspect MODEL
    hf-td prune MODEL OUTPUT --sparsity 0.75 --level unit
    hf-td trim MODEL OUTPUT --texts train.csv

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
    sparsity: Annotated[
        float, typer.Option(help="fraction of the prunable weights to remove, in [0, 1]")
    ],
    level: Annotated[
        Literal["weight", "unit"] | None,
        typer.Option(
            help="single weights (the files get no smaller), or heads and neurons; by default the "
            "level of a training by targeted dropout, else heads and neurons"
        ),
    ] = None,
    importance: Annotated[
        Literal["magnitude", "activation", "learned", "random"] | None,
        typer.Option(
            help="ranking of weights or units; by default that of the training, whose file of "
            "activations or learned scores must be saved next to the weights"
        ),
    ] = None,
    form: Annotated[
        str, typer.Option(help=forms_help(), metavar=f"[{'|'.join(form_choices())}]")
    ] = AUTO,
    budget: Annotated[
        Literal["uniform", "global"],
        typer.Option(help="remove the same fraction of every layer, or the lowest of all layers"),
    ] = "uniform",
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
    from hf_td.cli.pruning import prune_and_export

    prune_and_export(
        model,
        output,
        sparsity=sparsity,
        level=level,
        importance=importance,
        form=form,
        budget=budget,
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


def main() -> None:
    """Run `hf-td`. An error in the user's input prints one message and exits with status 2."""
    run_program(app)
