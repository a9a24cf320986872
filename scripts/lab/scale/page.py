"""Makes the tables of docs/scale.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hf_td.analysis.tables import markdown_table
from lab.scale.cases import CASES
from lab.scale.paper import RANKS, SIZES, added_traffic, fsdp_traffic, memory, shapes_of_size

Record = Mapping[str, Any]


def updated(page: str, records: Sequence[Record]) -> str:
    """Return the page with current tables.

    Args:
        page: the text of the page.
        records: the lines of scale.jsonl.

    Raises:
        ValueError: a marker is missing.
    """
    tables = {
        "equality": equality_table(records),
        "memory": memory_table(),
        "traffic": traffic_table(),
    }
    for name, table in tables.items():
        page = _replaced(page, name, table)
    return page


def _replaced(page: str, name: str, table: str) -> str:
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"the page has no {begin} ... {end}. Add both where the table goes")
    return f"{before}{begin}\n\n{table}\n\n{end}{after}"


def last_records(records: Iterable[Record]) -> dict[tuple[str, int], Record]:
    """Return the last line of each case and number of processes."""
    return {(record["case"], record["processes"]): record for record in records}


def equality_table(records: Iterable[Record]) -> str:
    """Return the table of the last line of each case and number of processes."""
    last = last_records(records)
    heads = (
        "training",
        "processes",
        "weights in masks",
        "of them dropped",
        "masked otherwise",
        "largest difference of a loss",
        "of a final weight",
    )
    order = [case.name for case in CASES]
    keys = sorted((key for key in last if key[0] in order), key=lambda k: (order.index(k[0]), k[1]))
    table = markdown_table(heads, (_equality_row(last[key]) for key in keys))
    return f"{table}\n\n{_source(last[key] for key in keys)}"


def _equality_row(record: Record) -> tuple[str, ...]:
    return (
        record["case"],
        str(record["processes"]),
        f"{record['mask_elements']:,}",
        f"{record['dropped'] / record['mask_elements']:.0%}",
        str(record["differing"]),
        f"{record['loss_difference']:.1e}",
        f"{record['weight_difference']:.1e}",
    )


def _source(records: Iterable[Record]) -> str:
    """Return the sentences that say where lines come from."""
    each = {
        f"torch {r['versions']['torch']}, transformers {r['versions']['transformers']}, "
        f"{r['hardware']['cpu']}, {r['hardware']['cores']} cores, seed {r['seed']}, commit "
        f"{r['commit'][:12]}"
        for r in records
    }
    return "".join(f"Measured with {one}.\n" for one in sorted(each)).rstrip()


def memory_table() -> str:
    """Return the memory of a rank for each size and number of ranks, in GB."""
    heads = (
        "parameters",
        "GPUs",
        "sharded",
        "gathered",
        "FSDP2 alone",
        "kept",
        "temporary",
        "more",
    )
    return markdown_table(heads, _memory_rows())


def _memory_rows() -> Iterator[tuple[str, ...]]:
    for size in SIZES:
        shapes = shapes_of_size(size)
        for ranks in RANKS:
            parts = memory(shapes, ranks)
            plain = parts["sharded"] + parts["gathered"]
            added = parts["kept"] + parts["temporary"]
            yield (
                f"{size} ({shapes.parameters / 1e9:.2f} billion)",
                str(ranks),
                *(
                    f"{number / 1e9:.2f} GB"
                    for number in (parts["sharded"], parts["gathered"], plain)
                ),
                *(f"{parts[name] / 1e6:.1f} MB" for name in ("kept", "temporary")),
                f"{added / plain:.2%}",
            )


def traffic_table() -> str:
    """Return the traffic of an update for each size, level and importance."""
    heads = ("parameters", "GPUs", "FSDP2", *(f"{a}, {b}" for a, b in _RANKED), "largest share")
    return markdown_table(heads, _traffic_rows())


_RANKED = (
    ("weight", "magnitude"),
    ("weight", "activation"),
    ("unit", "magnitude"),
    ("unit", "activation"),
)


def _traffic_rows() -> Iterator[tuple[str, ...]]:
    for size in SIZES:
        shapes = shapes_of_size(size)
        for ranks in RANKS:
            plain = fsdp_traffic(shapes, ranks)
            added = [added_traffic(shapes, ranks, *ranked) for ranked in _RANKED]
            each = (f"{number / 1e6:.2f} MB" for number in added)
            yield size, str(ranks), f"{plain / 1e9:.1f} GB", *each, f"{max(added) / plain:.4%}"
