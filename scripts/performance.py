"""Makes docs/results/performance.md, and its plots, of the lines that the benchmarks wrote."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from lab.benchmarks.page import write_page

from hf_td.files import read_json_lines

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def main(arguments: list[str]) -> None:
    """Read the lines, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    folder = parser.parse_args(arguments).results
    print(write_page(folder, *(_lines(folder, n) for n in ("training", "pruning"))))


def _lines(folder: Path, name: str) -> list[Any]:
    path = folder / f"{name}_speed.jsonl"
    return read_json_lines(path) if path.is_file() else []


if __name__ == "__main__":
    main(sys.argv[1:])
