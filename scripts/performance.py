"""Make docs/results/performance.md and its plots of the lines that the benchmarks wrote."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path

from lab.benchmarks.page import write_page

from hf_td.files import read_records

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def main(arguments: list[str]) -> None:
    """Read the lines, write the page, and print its path."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    folder = parser.parse_args(arguments).results
    names = ("training_speed", "pruning_speed", "inference")
    paths = [folder / f"{name}.jsonl" for name in names]
    print(write_page(folder, *(read_records(p) if p.is_file() else [] for p in paths)))


if __name__ == "__main__":
    main(sys.argv[1:])
