"""Speeds that were wished for, and those that pruning reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from statistics import median
from typing import Any

from hf_td import prune_to
from hf_td.analysis.tables import markdown_table

# The largest distance of a speed-up from the wish that is aimed at, as a fraction of the wish.
AIM = 0.1


def measure_wishes(
    make_model: Callable[[], Any],
    speedups: Sequence[float],
    batches: Sequence[int],
    *,
    length: int,
    threads: int,
    rounds: int,
) -> Iterator[dict[str, Any]]:
    """Yield a JSON object for each batch and speed-up that was wished for.

    Each wish is granted to a new model, several times: what is measured is how well the whole
    search does, with the noise of the machine.

    Args:
        make_model: returns the model, in eval mode.
        speedups: wishes, each above 1.
        batches: numbers of rows.
        length: tokens of each row.
        threads: of torch.
        rounds: searches for each wish.
    """
    for batch, speedup in product(batches, speedups):
        got, sparsities, refused = [], [], ""
        for _ in range(rounds):
            try:
                report = prune_to(
                    make_model(), speedup=speedup, batch=batch, length=length, threads=threads
                )
            except ValueError as error:
                refused = str(error)
                break
            got.append(report.wishes[0].got)
            sparsities.append(report.sparsity)
        yield {
            "batch": batch,
            "length": length,
            "threads": threads,
            "wanted": speedup,
            "got": got,
            "sparsities": sparsities,
            "refused": refused,
        }


def wishes_table(records: Iterable[Mapping[str, Any]]) -> str:
    """Return the table of the last line of each model, batch and wish, in Markdown."""
    last = {(r["label"], r["batch"], r["wanted"]): r for r in records}
    heads = ("model", "batch", "wanted", "got", "off by", "heads and neurons removed")
    return markdown_table(heads, (_row(r) for r in last.values()), left_columns=1)


def _row(record: Mapping[str, Any]) -> tuple[str, ...]:
    facts = (record["label"], str(record["batch"]), f"{record['wanted']:.1f}")
    got, sparsities = record["got"], record["sparsities"]
    if not got:
        return *facts, "refused", "", ""
    off = median(got) / record["wanted"] - 1
    low, high = min(sparsities), max(sparsities)
    return (
        *facts,
        f"{median(got):.2f} [{min(got):.2f}, {max(got):.2f}]",
        f"{off:+.0%}" + ("" if abs(off) <= AIM else f", more than {AIM:.0%}"),
        f"{low:.0%} to {high:.0%}",
    )
