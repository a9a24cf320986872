"""Write the table of docs/families.md from the rows that the tests hold the library to.

    python scripts/families.py

Only the text between the markers `<!-- families -->` and `<!-- /families -->` is replaced.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for the table, which is in tests

from hf_td.analysis.tables import markdown_table  # noqa: E402
from hf_td.files import write_text  # noqa: E402
from tests.families import TABLE, Family  # noqa: E402

PAGE = ROOT / "docs" / "families.md"
BEGIN, END = "<!-- families -->", "<!-- /families -->"
HEADS = {"removed": "removed", "masked": "masked", "refused": "weight level only"}
COLUMNS = (
    "family",
    "layout of the projections",
    "heads",
    "neurons pruned",
    "heads and neurons pruned",
    "experts pruned",
    "whole layers",
)


def main() -> None:
    """Update the page."""
    ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter).parse_args()
    write_text(PAGE, updated(PAGE.read_text(encoding="utf-8")))


def updated(page: str) -> str:
    """Return the page with the current table.

    Raises:
        ValueError: a marker is missing.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} has no {BEGIN} ... {END}. Add both where the table goes.")
    return f"{before}{begin}\n\n{families_markdown()}\n\n{end}{after}"


def families_markdown() -> str:
    """Return a table with a row for each family, and notes on heads that are not removed."""
    table = markdown_table(COLUMNS, map(_row, TABLE.values()), left_columns=len(COLUMNS))
    notes = [*_notes_on_heads(), *_notes_on_layers()]
    return "\n".join([table, "", *notes])


def _notes_on_heads() -> list[str]:
    return [
        f"- {family.title}, heads {HEADS[family.heads]}: {family.why}."
        for family in TABLE.values()
        if family.why
    ]


def _notes_on_layers() -> list[str]:
    rows = [family for family in TABLE.values() if family.no_layers or family.first_layer]
    return [
        f"- {family.title}, whole layers {_whole_layers(family)}: "
        + (family.no_layers or f"a first layer has {family.first_layer}")
        + "."
        for family in rows
    ]


def _whole_layers(family: Family) -> str:
    if family.no_layers:
        return "refused"
    return "all but the first" if family.first_layer else "removed"


def _row(family: Family) -> tuple[str, ...]:
    both = "-" if family.heads == "refused" else family.units
    experts = family.experts or "-"
    return (
        family.title,
        family.layers,
        HEADS[family.heads],
        family.neurons,
        both,
        experts,
        _whole_layers(family),
    )


if __name__ == "__main__":
    main()
