"""Make the page of a sweep, with tables and plots, from the lines that scripts/sweep.py wrote.

    python scripts/sweep_report.py runs/glue/cells.jsonl --output docs/results/glue

Give several files if several machines ran parts of one sweep.
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from lab.sweeps import read_report, write_page

from hf_td.tasks.errors import run_program


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
    options = parser.parse_args(argv)
    page = write_page(read_report(options.lines), options.output, options.tuned_at)
    print(f"the page is {page}")


if __name__ == "__main__":
    run_program(main)
