"""Tells errors in what the user gave from faults of the program."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class UsageError(Exception):
    """Something that the user gave cannot work; the message says what to change."""


@contextmanager
def blaming_input() -> Iterator[None]:
    """Report what is refused inside as the user's: ValueError, TypeError, OSError, ImportError.

    Only for code that checks or loads what the user named.
    """
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise UsageError(str(error)) from error


def run_program(main: Callable[[], Any]) -> None:
    """Run a script: an error that the user caused becomes one message and exit code 2.

    A loss that is not finite counts as such. Any other error keeps its traceback.
    """
    try:
        main()
    except (UsageError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
