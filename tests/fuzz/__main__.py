"""Fuzz every reader of files that anybody may have written.

    python -m tests.fuzz SECONDS [--targets NAME ...] [--first NUMBER] [--atheris]

Each reader gets an equal share of the time, in a process of bounded memory; a case has bounded
time. The first error that is not documented ends the program with exit code 1, and its case is
written to a file. Move that file to tests/fuzz/found once the error is mended.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any


def main() -> None:
    """Fuzz, and print the number of cases of each target."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=float, help="time for all targets together")
    parser.add_argument("--targets", nargs="+", help="of tests/fuzz/targets.py; by default all")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--atheris", action="store_true", help="let coverage guide the changes")
    parser.add_argument("--output", type=Path, default=Path("fuzz-found"), help="for found cases")
    options = parser.parse_args()
    with _instrumented(options.atheris):
        from tests.fuzz.running import fuzz
        from tests.fuzz.targets import TARGETS
    names = options.targets or list(TARGETS)
    total = 0
    for name in names:
        how = fuzz(
            name,
            options.seconds / len(names),
            first=options.first,
            guided=options.atheris,
            output=options.output,
        )
        print(how, flush=True)
        total += how.cases
        if how.error:
            sys.exit(1)
    print(f"fuzzing: {total} cases, nothing but documented errors")


def _instrumented(guided: bool) -> Any:
    """Return a block in which atheris watches what is imported, or one that does nothing."""
    if not guided:
        return nullcontext()
    atheris: Any = import_module("atheris")

    return atheris.instrument_imports(include=["hf_td", "lab"])


if __name__ == "__main__":
    main()
