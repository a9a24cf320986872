"""The arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_td.hub.forms import form_choices, forms_help

READING, TIMING, WRITING = "Reading the model", "What is timed", "Writing"

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
        help=forms_help(), metavar=f"[{'|'.join(form_choices())}]", rich_help_panel=WRITING
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


def examples(*commands: str) -> str:
    """Return the end of a help, with a command on each line."""
    return "\n\n".join(["Examples:", *commands])
