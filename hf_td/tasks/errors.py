"""Separates errors in the user's input from faults of the program."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from hf_td.files import is_of_the_disk
from hf_td.tasks.termination import unwinding_on_sigterm


class UsageError(Exception):
    """An error in the user's input; the message says what to change."""


@contextmanager
def blaming_input() -> Iterator[None]:
    """Raise ValueError, TypeError, OSError and ImportError of the block as UsageError.

    Only for code that checks or loads what the user named.
    """
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise UsageError(str(error)) from error


def run_program(main: Callable[[], Any], *, debug: bool = False) -> None:
    """Run a script; a UsageError becomes one line on stderr and exit code 2.

    FloatingPointError (a loss that is not finite), a disk that is full or fails, and a package that
    is not installed are reported in the same way. Any other error keeps its traceback. SIGTERM ends
    the script as Ctrl-C does, with exit code 143.

    Args:
        main: the script.
        debug: print the traceback of a UsageError too.
    """
    try:
        with unwinding_on_sigterm():
            main()
    except (UsageError, FloatingPointError) as error:
        _end(error, debug=debug)
    except OSError as error:
        if not is_of_the_disk(error):
            raise
        _end(error, debug=debug)
    except ImportError as error:
        missing = error if isinstance(error, ModuleNotFoundError) else error.__cause__
        if not isinstance(missing, ModuleNotFoundError) or str(missing.name).startswith("hf_td"):
            raise
        named = f"{error.name} is not installed. Run pip install {error.name}"
        _end(named if error is missing else error, debug=debug)


def _end(error: Any, *, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exc()
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
