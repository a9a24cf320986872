"""The values in a label column, without those that stand for a missing label."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import datasets

_LISTS = datasets.List, datasets.LargeList
# Texts that stand for a missing number. As the name of a class, next to others, they are names.
_NO_NUMBERS = frozenset({"nan", "na", "n/a", "none", "null", "<na>"})


def label_values(
    rows: datasets.Dataset, column: str, split: str, *, may_be_empty: bool = False
) -> list[Any]:
    """Return the labels of a column: those of `ClassLabel` as the names of their classes.

    Args:
        rows: rows of the split.
        column: column with the labels.
        split: name of the split, for messages.
        may_be_empty: True if an empty text is a label.

    Raises:
        ValueError: a row has no label, or rows have labels of different kinds.
    """
    values = [named(value, rows.features[column]) for value in rows[column][:]]
    _check_missing([v for v in values if not (may_be_empty and v == "")], column, split)
    _check_kinds(values, column, split)
    return values


def is_list(feature: Any) -> bool:
    """Return True for a column of lists."""
    return isinstance(feature, _LISTS)


def named(value: Any, feature: Any, names: Sequence[Any] | None = None) -> Any:
    """Return a label of a column with classes of `ClassLabel` by name, and None for a hidden one.

    Args:
        value: as it is stored; a list for a column of lists.
        feature: of the column.
        names: for the ids of the classes, in their order; those of the column by default.
    """
    if is_list(feature) and value is not None:
        return [named(item, feature.feature, names) for item in value]
    if isinstance(feature, datasets.ClassLabel) and value is not None:
        return (names or feature.names)[value] if value >= 0 else None
    return value


def is_number(value: Any) -> bool:
    """Return True for a number that is no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def switch(value: Any, separator: str | None) -> list[Any]:
    """Return the labels of a row that can have several: the items of a list or of a text."""
    if separator is None:
        return list(value)
    return [item.strip() for item in str(value).split(separator) if item.strip()]


def lists_of_bits(values: Sequence[Any]) -> int:
    """Return the length of lists that say 0 or 1 for each class; 0 if they list classes."""
    lengths = {len(value) for value in values}
    bits = all(item in (0, 1) and not isinstance(item, str) for value in values for item in value)
    return lengths.pop() if len(lengths) == 1 and max(lengths) > 1 and bits else 0


def class_names(feature: Any, values: Sequence[Any]) -> tuple[str, ...]:
    """Return the names of classes in the order of their ids: sorted, or that of `ClassLabel`."""
    if isinstance(feature, datasets.ClassLabel):
        return tuple(feature.names)
    return tuple(name_of(value) for value in sorted(set(values)))


def name_of(value: Any) -> str:
    """Return the name of a class; 1.0 and 1 are one class."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def shown(values: Iterable[Any], most: int = 8) -> str:
    """Return the first values, for a message."""
    listed = sorted({repr(value) for value in values})
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")


def _check_missing(values: Sequence[Any], column: str, split: str) -> None:
    numeric = any(_reads_as_number(value) for value in values)
    missing = [i for i, value in enumerate(values) if _is_missing(value, numeric)]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(values)} rows of the {split} split have no label in the "
            f"column {column}, first row {missing[0]}. Label or remove them; hidden test labels "
            "cannot be measured."
        )


def _is_missing(value: Any, numeric: bool) -> bool:
    if isinstance(value, str):
        return not value.strip() or (numeric and value.strip().lower() in _NO_NUMBERS)
    return value is None or (isinstance(value, float) and math.isnan(value))


def _reads_as_number(value: Any) -> bool:
    try:
        return not isinstance(value, list) and math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _check_kinds(values: Sequence[Any], column: str, split: str) -> None:
    items = [item for value in values for item in (value if isinstance(value, list) else [value])]
    mixed = any(isinstance(value, list) for value in values) and not all(
        isinstance(value, list) for value in values
    )
    kinds = {float if is_number(item) else type(item) for item in items}
    if mixed or len(kinds) > 1 or not kinds <= {float, str, bool}:
        names = {"list"} if mixed else set()
        found = ", ".join(sorted(names | {_KINDS.get(kind, kind.__name__) for kind in kinds}))
        raise ValueError(
            f"the column {column} of the {split} split holds {found}. Labels must all be texts, "
            "numbers, truth values, or lists of these."
        )


_KINDS = {float: "number", str: "text", bool: "truth value"}
