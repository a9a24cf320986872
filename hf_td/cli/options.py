"""The arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hf_td.hub.forms import form_choices

READING, TIMING, WRITING = "Reading the model", "What is timed", "Writing"
RANKING = "What is removed first"

Model = Annotated[str, typer.Argument(metavar="MODEL", help="a folder, or an id on the Hub")]
Output = Annotated[Path, typer.Argument(metavar="OUTPUT", help="the folder to write")]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="print the result alone on stdout, as JSON", show_default=False),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="run the code in the model's repository",
        rich_help_panel=READING,
    ),
]
ExampleInputs = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="inputs of one forward, for a model that runs on none that hf_td can make: a .json "
        'file, such as {"input_ids": [[101, 2054, 102]]}, or a .safetensors file',
        rich_help_panel=READING,
    ),
]
Form = Annotated[
    str,
    typer.Option(
        help=f"one of {', '.join(form_choices())}; auto is stock, else compact",
        metavar="FORM",
        rich_help_panel=WRITING,
    ),
]
KeepHeadsStock = Annotated[
    bool,
    typer.Option(
        "--keep-heads-stock",
        help="keep all heads (pruned ones as zeros) where a stock config cannot say fewer, as "
        "for BERT, so that the result loads with transformers alone",
        rich_help_panel=WRITING,
    ),
]
MultipleOf = Annotated[
    int,
    typer.Option(
        min=1,
        help="keep a multiple of this many neurons",
        rich_help_panel=WRITING,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="replace the contents of the folder", rich_help_panel=WRITING),
]
Length = Annotated[
    int, typer.Option(min=1, help="tokens of a row that is timed", rich_help_panel=TIMING)
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="threads of torch while it is timed", rich_help_panel=TIMING),
]


Level = Annotated[
    Literal["weight", "unit"] | None,
    typer.Option(
        rich_help_panel=RANKING,
        help="single weights (the files get no smaller), or heads and neurons; by default the "
        "level of a training by targeted dropout, else heads and neurons",
    ),
]
Importance = Annotated[
    Literal["magnitude", "activation", "learned", "random", "taylor", "movement", "reap"] | None,
    typer.Option(
        rich_help_panel=RANKING,
        help="ranking; by default that of the training, whose file must be saved next to the "
        "weights, or activation with a --calibration, which taylor, movement and reap need. reap "
        "removes whole experts of a mixture, and nothing else",
    ),
]
CalibrationTexts = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=RANKING,
        metavar="TEXTS",
        help="texts to measure importance on: a file of text, a table, "
        "a local folder, or an id on the Hub",
    ),
]
CalibrationRows = Annotated[
    int,
    typer.Option(rich_help_panel=RANKING, min=1, help="most rows of --calibration"),
]
TextColumn = Annotated[
    list[str] | None,
    typer.Option(
        rich_help_panel=RANKING,
        metavar="NAME",
        help="column of texts; two for pairs",
    ),
]
LabelColumn = Annotated[
    str | None,
    typer.Option(rich_help_panel=RANKING, metavar="NAME", help="column of labels"),
]
Rounds = Annotated[
    int, typer.Option(min=2, help="timed forwards of each model", rich_help_panel=TIMING)
]


def examples(*commands: str) -> str:
    """Return the end of a help, with a command on each line."""
    return "\n\n".join(["Examples:", *commands])
