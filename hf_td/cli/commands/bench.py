"""Declares `hf-td bench`."""

from __future__ import annotations

from typing import Annotated

import typer

from hf_td.cli.answers import give
from hf_td.cli.options import TIMING, AsJson, Length, Rounds, Threads, TrustRemoteCode, examples

EPILOG = examples(
    "hf-td bench MODEL small",
    "hf-td bench MODEL small --batch 1 --batch 32 --length 64 --threads 1",
)


def bench(
    dense: Annotated[str, typer.Argument(metavar="DENSE", help="the model to compare with")],
    compact: Annotated[str, typer.Argument(metavar="COMPACT", help="the smaller model")],
    batch: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="rows of the inputs; may be given several times. 1 and 8 by default",
            rich_help_panel=TIMING,
        ),
    ] = None,
    length: Length = 128,
    threads: Threads = None,
    rounds: Rounds = 30,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Compare the latency and the bytes of two models on this machine.

    Both models run in turn: what slows the machine for a while slows both. The table has medians
    and quartiles of the milliseconds of a forward.
    """
    from hf_td.cli.benching import compare_latency

    give(
        lambda: compare_latency(
            dense,
            compact,
            batches=batch or [1, 8],
            length=length,
            threads=threads,
            rounds=rounds,
            trust_remote_code=trust_remote_code,
        ),
        as_json=as_json,
    )
