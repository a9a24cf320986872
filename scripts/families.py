"""Writes the table of docs/families.md from the rows that the tests hold the library to.

    python -m scripts.families

Only what stands between the markers `<!-- families -->` and `<!-- /families -->` is replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hf_td.files import write_text
from tests.families import TABLE, Family

PAGE = Path(__file__).parents[1] / "docs" / "families.md"
BEGIN, END = "<!-- families -->", "<!-- /families -->"
HEADS = {"go": "taken out", "stay": "stay, as zeros", "refused": "weight level only"}


def main() -> None:
    """Bring the page up to date."""
    write_text(PAGE, updated(PAGE.read_text(encoding="utf-8")))


def updated(page: str) -> str:
    """The page with the table of today; raises ValueError where the markers are missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} has no {BEGIN} ... {END} to put the table into")
    return f"{before}{begin}\n\n{families_markdown()}\n\n{end}{after}"


def families_markdown() -> str:
    """The table: a row for each family."""
    head = (
        "| family | layout of the projections | heads | neurons gone | heads and neurons gone "
        "| experts gone |",
        "|---|---|---|---|---|---|",
    )
    return "\n".join([*head, *map(_row, TABLE.values()), "", *_notes()])


def _row(family: Family) -> str:
    both = "-" if family.heads == "refused" else family.units
    experts = family.experts or "-"
    cells = (family.title, family.layers, HEADS[family.heads], family.neurons, both, experts)
    return f"| {' | '.join(cells)} |"


def _notes() -> Iterator[str]:
    """A line for each family whose heads are not taken out."""
    for family in TABLE.values():
        if family.why:
            yield f"- {family.title}, heads {HEADS[family.heads]}: {family.why}."


if __name__ == "__main__":
    main()
