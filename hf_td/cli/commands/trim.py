"""Declares `hf-td trim`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_td.cli.answers import give
from hf_td.cli.options import AsJson, Model, Output, Overwrite, TrustRemoteCode, examples

EPILOG = examples(
    "hf-td trim MODEL small --texts train.csv",
    "hf-td trim MODEL small --texts a.txt --texts b.txt --min-count 3",
)


def trim(
    model: Model,
    output: Output,
    texts: Annotated[
        list[Path],
        typer.Option(
            metavar="FILE",
            help="texts whose tokens stay, such as the training set: .txt, .csv, .json, .jsonl or "
            ".parquet; may be given several times",
        ),
    ],
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TOKEN", help="a further token that stays; may be given several times"
        ),
    ] = None,
    min_count: Annotated[
        int, typer.Option(min=1, help="how often a token has to occur in the texts")
    ] = 1,
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Take the tokens that no text uses out of a model and its tokenizer, and export both.

    Texts of the kept tokens are split as before. Any other text is split into smaller tokens.
    """
    from hf_td.cli.trimming import trim_and_export

    give(
        lambda: trim_and_export(
            model,
            output,
            texts=texts,
            keep=keep or (),
            min_count=min_count,
            overwrite=overwrite,
            trust_remote_code=trust_remote_code,
        ),
        as_json=as_json,
    )
