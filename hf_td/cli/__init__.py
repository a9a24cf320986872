"""The program `hf-td`: makes a model small, and checks what it wrote.

This module and `hf_td.cli.commands` only declare the commands: a command imports torch and
transformers when it runs, so `--help` needs neither.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hf_td import __version__
from hf_td.cli.commands import (
    bench,
    check,
    curve,
    export,
    inspect,
    prune,
    push,
    report,
    train,
    trim,
)
from hf_td.tasks.errors import run_program

_DEBUG = "--debug"

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"hf_td {__version__}")
        raise typer.Exit


@app.callback(
    epilog="Exit codes: 0 done, 2 an error in the input, 3 done but short of what was wanted, 1 a "
    "fault of the program."
)
def program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="print the version and exit"
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(_DEBUG, help="before the command: show where an error in the input came up"),
    ] = False,
) -> None:
    """Make Hugging Face Transformers small."""


_LOOK, _MAKE, _CHECK = "Look", "Make it small", "Check, measure, publish"

app.command(epilog=inspect.EPILOG, rich_help_panel=_LOOK)(inspect.inspect)
app.command(epilog=curve.EPILOG, rich_help_panel=_LOOK)(curve.curve)
app.command(
    epilog=train.EPILOG,
    help=train.HELP,
    context_settings=train.SETTINGS,
    options_metavar="[KIND] OPTIONS",
    add_help_option=False,
    rich_help_panel=_MAKE,
)(train.train)
app.command(epilog=prune.EPILOG, rich_help_panel=_MAKE)(prune.prune)
app.command(epilog=trim.EPILOG, rich_help_panel=_MAKE)(trim.trim)
app.command(epilog=export.EPILOG, rich_help_panel=_MAKE)(export.export)
app.command(epilog=check.EPILOG, rich_help_panel=_CHECK)(check.check)
app.command(epilog=bench.EPILOG, rich_help_panel=_CHECK)(bench.bench)
app.command(epilog=report.EPILOG, rich_help_panel=_CHECK)(report.report)
app.command(epilog=report.COMPARE_EPILOG, rich_help_panel=_CHECK)(report.compare)
app.command(epilog=push.EPILOG, rich_help_panel=_CHECK)(push.push)


def main() -> None:
    """Run `hf-td`. An error in the user's input prints one message and exits with status 2."""
    run_program(app, debug=sys.argv[1:2] == [_DEBUG])
