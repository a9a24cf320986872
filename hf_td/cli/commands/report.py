"""Declares `hf-td report` and `hf-td compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_td.cli.answers import give
from hf_td.cli.options import AsJson, examples

EPILOG = examples("hf-td report RUN", "hf-td report RUN --output page.html")
COMPARE_EPILOG = examples("hf-td compare RUN OTHER --output page.html")

Title = Annotated[str | None, typer.Option(help="title of the page")]


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="folder of a run, or results.json")],
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="the page; by default RUN/report.html")
    ] = None,
    title: Title = None,
    as_json: AsJson = False,
) -> None:
    """Write the results of a run as one HTML page, which needs no network."""
    from hf_td.cli.reporting import write_report

    give(lambda: write_report([run], output, title), as_json=as_json)


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="folders of runs, or results.json")
    ],
    output: Annotated[Path, typer.Option(metavar="FILE", help="the page")] = Path("report.html"),
    title: Title = None,
    as_json: AsJson = False,
) -> None:
    """Write the results of several runs on one task as one HTML page, which needs no network."""
    from hf_td.cli.reporting import write_report

    give(lambda: write_report(runs, output, title), as_json=as_json)
