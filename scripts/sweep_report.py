"""Make the page of a sweep, with tables and plots, from the lines that scripts/sweep.py wrote.

    python scripts/sweep_report.py runs/glue/cells.jsonl --output docs/results/glue

Give several files if several machines ran parts of one sweep.
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from lab.benchmarks.writing import writing_section
from lab.sweeps import read_report, write_page

from hf_td.files import read_records
from hf_td.tasks.errors import UsageError, run_program


def main(argv: Sequence[str] | None = None) -> None:
    """Read the lines, and write STEM.md, its plots and STEM.jsonl."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("lines", nargs="+", type=Path, help="cells.jsonl of a sweep")
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="STEM",
        help="path of the page without its suffix",
    )
    parser.add_argument(
        "--tuned_at",
        nargs="+",
        type=float,
        default=[0.75, 0.9],
        help="sparsities at which the knobs are compared",
    )
    parser.add_argument(
        "--generation", type=Path, help="lines of scripts/bench_generation.py, for a part on speed"
    )
    options = parser.parse_args(argv)
    sections = [] if options.generation is None else [_writing(options.generation)]
    page = write_page(read_report(options.lines), options.output, options.tuned_at, sections)
    print(f"the page is {page}")


def _writing(path: Path) -> str:
    try:
        return writing_section(read_records(path))
    except (OSError, ValueError, IndexError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} has no lines of scripts/bench_generation.py. Give a file that it wrote."
        ) from error


if __name__ == "__main__":
    run_program(main)
