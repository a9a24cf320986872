"""Checks columns of texts."""

from __future__ import annotations

import re
from collections.abc import Sequence

import datasets

from hf_td.tasks.data.splits import check_columns, check_text

_HEXADECIMAL = re.compile(r"[0-9a-fA-F-]{16,}")
_NUMBERED = re.compile(r"(\D*)[\d_.-]*\d")


def check_texts(
    splits: datasets.DatasetDict, columns: Sequence[str], options: Sequence[str]
) -> None:
    """Raise ValueError for a column that does not exist, holds no texts, an empty text, or ids."""
    for column, option in zip(columns, options, strict=False):
        check_columns(splits, [column], option)
        check_text(splits, [column], option)
        for split, rows in splits.items():
            _check_empty(rows[column][:], column, str(split))
        _check_ids(splits["train"][column][:], column, option)


def _check_empty(texts: Sequence[str | None], column: str, split: str) -> None:
    empty = [i for i, text in enumerate(texts) if text is None or not text.strip()]
    if empty:
        raise ValueError(
            f"{len(empty)} of {len(texts)} rows of the {split} split have no text in the column "
            f"{column}, first row {empty[0]}. Remove them."
        )


def _check_ids(texts: Sequence[str], column: str, option: str) -> None:
    if len(set(texts)) == len(texts) > 1 and looks_like_ids(texts):
        raise ValueError(
            f"the column {column} looks like an id, not like a text: {texts[0]!r}, {texts[1]!r}. "
            f"Name the column with the texts with {option}."
        )


def looks_like_ids(texts: Sequence[str]) -> bool:
    """Return True if all are hexadecimal numbers, or one prefix with numbers.

    >>> looks_like_ids(["user_17", "user_4"]), looks_like_ids(["17 users", "4 users"])
    (True, False)
    """
    if all(_HEXADECIMAL.fullmatch(text) for text in texts):
        return True
    found = [_NUMBERED.fullmatch(text) for text in texts]
    return len({match and match[1] for match in found}) == 1 and None not in found
