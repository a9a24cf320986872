"""Prints the answer of a command: for people, or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import typer
from rich.console import Console

# The exit code of a command that is done, but whose result misses what was wanted. Python ends
# with 1 after a fault of the program, and 2 stands for an error in the input.
MISSED = 3
_FILE_WIDTH = 1000


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer of a command.

    Attributes:
        shown: lines of text and tables of rich, in the order in which they are printed.
        values: what the answer says, as JSON values.
        met: False for a result that misses what was wanted, or a check that failed.
    """

    shown: tuple[Any, ...]
    values: Mapping[str, Any] = field(default_factory=dict)
    met: bool = True


def give(work: Callable[[], Answer], *, as_json: bool) -> None:
    """Do the work of a command, and print its answer.

    Args:
        work: does it.
        as_json: print the values alone on stdout, and all that is printed before on stderr.

    Raises:
        typer.Exit: with the code `MISSED`, where the answer is not met.
    """
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        answer = work()
    if as_json:
        print(json.dumps(answer.values, indent=2))
    else:
        _show(answer.shown)
    if not answer.met:
        raise typer.Exit(MISSED)


def _show(parts: tuple[Any, ...]) -> None:
    # A file or a pipe gets full lines: names are there to be copied.
    console = Console(width=None if sys.stdout.isatty() else _FILE_WIDTH)
    for part in parts:
        if isinstance(part, str):
            print(part)
        else:
            console.print(part)
