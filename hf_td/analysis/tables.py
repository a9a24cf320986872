"""Writes Markdown tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from hf_td.extras import extra

with extra("tasks"):
    from tabulate import tabulate


def markdown_table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    left_columns: int = 1,
    padded: bool = True,
) -> str:
    """Return a Markdown table, without a line break at the end.

    Args:
        heads: heading of each column.
        rows: cells of each row, as they are printed.
        left_columns: number of columns, from the first, that are aligned to the left; the others
            are aligned to the right.
        padded: align the text itself too; False for tables with long cells.
    """
    align = ["left" if i < left_columns else "right" for i in range(len(heads))]
    table = tabulate(list(rows), heads, tablefmt="pipe", colalign=align, disable_numparse=True)
    return table if padded else re.sub("-{3,}", "--", re.sub(" {2,}", " ", table))
