"""Puts the results of several runs on one task side by side: a table, a plot, and their data."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from hf_td.analysis.record import write_json
from hf_td.experiment import UsageError, run_program
from hf_td.experiment.comparison import comparison_markdown, plot_comparison
from hf_td.experiment.results import Results


def main(argv: Sequence[str] | None = None) -> None:
    """Read the results, and write STEM.md, STEM.json, STEM.png and STEM.svg."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, help="results.json of each run")
    parser.add_argument("--output", required=True, type=Path, metavar="STEM", help="where to")
    parser.add_argument("--title", required=True, help="of the table and the plot")
    options = parser.parse_args(argv)
    experiments = [read_results(path) for path in options.results]
    write_json(options.output.with_suffix(".json"), experiments)
    plot_comparison(experiments, options.output, options.title)
    page = comparison_markdown(experiments, options.title, options.output.name)
    options.output.with_suffix(".md").write_text(page, encoding="utf-8")


def read_results(path: Path) -> Results:
    """The results of one run; raises UsageError where the file holds none."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} holds no results: {error}") from error
    if not isinstance(results, dict) or "summary" not in results:
        raise UsageError(f"{path} holds no results; expected the results.json of a run")
    return results


if __name__ == "__main__":
    run_program(main)
