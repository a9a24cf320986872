"""Declares `hf-td push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_td.cli.answers import give
from hf_td.cli.options import AsJson, examples

EPILOG = examples("hf-td push small user/small --dry-run", "hf-td push small user/small --private")


def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="an export")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="user/name on the Hub, or a name")],
    private: Annotated[
        bool, typer.Option("--private", help="make a new repository private")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="branch to commit to, which may be new")
    ] = None,
    message: Annotated[str | None, typer.Option(help="first line of the commit")] = None,
    pull_request: Annotated[
        bool, typer.Option("--pull-request", help="open a pull request, and leave the branch")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="check the export and list its files; send nothing"),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Publish an export on the Hugging Face Hub, in one commit or not at all.

    The token is that of `hf auth login`, or HF_TOKEN.
    """
    from hf_td.cli.pushing import push_folder

    give(
        lambda: push_folder(
            folder,
            repo,
            private=private or None,
            revision=revision,
            message=message,
            pull_request=pull_request,
            dry_run=dry_run,
        ),
        as_json=as_json,
    )
