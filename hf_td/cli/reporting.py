"""Writes report pages: `hf-td report` and `hf-td compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hf_td.cli.answers import Answer
from hf_td.files import write_text
from hf_td.tasks.errors import UsageError, blaming_input
from hf_td.tasks.experiment.output import PAGE
from hf_td.tasks.experiment.reporting import read_results, report_page


def write_report(runs: Sequence[Path], output: Path | None, title: str | None) -> Answer:
    """Write the page of one or of several runs, and return its path and bytes.

    Args:
        runs: folders of runs, or their results.json.
        output: the file to write; by default report.html in the folder of a single run.
        title: of the page, or None.

    Raises:
        UsageError: an argument cannot work.
    """
    page = report_page([read_results(run) for run in runs], title)
    if output is None:
        output = (runs[0] if runs[0].is_dir() else runs[0].parent) / PAGE
    if output.suffix not in (".html", ".htm"):
        raise UsageError(f"--output is an HTML file, such as {PAGE}; got {output}")
    with blaming_input():
        write_text(output, page)
    size = output.stat().st_size
    shown = f"the page is {output} ({size / 1e3:.0f} kB)"
    return Answer(shown=(shown,), values={"page": str(output), "bytes": size})
