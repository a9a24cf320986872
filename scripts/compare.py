"""Compares the results of several runs on one task: a table, a plot, and their data."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from hf_td.files import read_json, write_json, write_text
from hf_td.tasks.errors import UsageError, run_program
from hf_td.tasks.experiment.comparison import comparison_markdown, plot_comparison
from hf_td.tasks.experiment.results import Results


def main(argv: Sequence[str] | None = None) -> None:
    """Read the results, and write STEM.md, STEM.json, STEM.png and STEM.svg."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, help="results.json of each run")
    parser.add_argument(
        "--output", required=True, type=Path, metavar="STEM", help="output files without suffix"
    )
    parser.add_argument("--title", required=True, help="title of the table and the plot")
    parser.add_argument("--labels", nargs="+", help="labels of the runs; by default their methods")
    parser.add_argument("--metrics", nargs="+", default=[], help="metrics, a table each")
    options = parser.parse_args(argv)
    experiments = [read_results(path) for path in options.results]
    if options.labels:
        experiments = labelled(experiments, options.labels)
    check_metrics(experiments, options.metrics)
    write_json(options.output.with_suffix(".json"), experiments)
    plot_comparison(experiments, options.output, options.title)
    stem = options.output.name
    page = comparison_markdown(experiments, options.title, stem, options.metrics)
    write_text(options.output.with_suffix(".md"), page)


def read_results(path: Path) -> Results:
    """Read the results of one run; raise UsageError if the file has none."""
    try:
        results = read_json(path)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} has no results ({error}). Give the results.json of a run."
        ) from error
    if not isinstance(results, dict) or "summary" not in results:
        raise UsageError(f"{path} has no results. Give the results.json of a run.")
    return results


def labelled(experiments: Sequence[Results], labels: Sequence[str]) -> list[Results]:
    """Add a label to each of the results; raise UsageError for a wrong number or duplicates."""
    if len(set(labels)) != len(experiments):
        raise UsageError(f"--labels are {len(experiments)} different ones, one a run; got {labels}")
    return [{**found, "label": label} for found, label in zip(experiments, labels, strict=True)]


def check_metrics(experiments: Sequence[Results], metrics: Sequence[str]) -> None:
    """Raise UsageError if a metric was not measured."""
    measured = experiments[0]["summary"][0]["metrics"]
    unknown = [metric for metric in metrics if metric not in measured]
    if unknown:
        raise UsageError(f"--metrics are of {', '.join(measured)}; got {', '.join(unknown)}")


if __name__ == "__main__":
    run_program(main)
