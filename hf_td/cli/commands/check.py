"""Declares `hf-td check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_td.cli.answers import give
from hf_td.cli.options import AsJson, ExampleInputs, TrustRemoteCode, examples

EPILOG = examples("hf-td check small", "hf-td check small --against out/seed-42/export --json")


def check(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="an export")],
    against: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="a model that has to compute the same, such as another form of the export; "
            "without it the model of the folder itself",
        ),
    ] = None,
    example_inputs: ExampleInputs = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Load an export in a fresh process as a stranger would, and compare what it computes.

    A stock or padded export is loaded without hf_td, a compact one both with hf_td and by its own
    modeling file. The exit code is 3 if the export does not load, or computes something else.
    """
    from hf_td.cli.checking import check_export

    give(
        lambda: check_export(
            folder,
            against=against,
            example_inputs=example_inputs,
            trust_remote_code=trust_remote_code,
        ),
        as_json=as_json,
    )
