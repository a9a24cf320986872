"""Finds out what the labels of a data set are: classes, several classes at once, or numbers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import datasets

from hf_td.tasks.data.splits import check_columns
from hf_td.tasks.labels.arguments import LabelArguments
from hf_td.tasks.labels.values import (
    class_names,
    is_list,
    is_number,
    label_values,
    lists_of_bits,
    shown,
    switch,
)

logger = logging.getLogger(__name__)

SINGLE = "single_label_classification"
MULTI = "multi_label_classification"
REGRESSION = "regression"

# Labels look like ids if more than half of at least this many rows have a label of their own.
_ROWS_OF_IDS = 10


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The meaning of the labels of a data set.

    Attributes:
        problem: `problem_type` of the model's config: `SINGLE`, `MULTI` or `REGRESSION`.
        columns: the label columns.
        names: classes in the order of their ids; for a regression the column.
        separator: sign between several labels in one text.
    """

    problem: str
    columns: tuple[str, ...]
    names: tuple[str, ...]
    separator: str | None = None

    @property
    def config(self) -> dict[str, Any]:
        """Entries of the model's config: `num_labels` follows from the names."""
        return {
            "problem_type": self.problem,
            "id2label": dict(enumerate(self.names)),
            "label2id": {name: i for i, name in enumerate(self.names)},
        }

    def task_name(self, inputs: str) -> str:
        """Return the task in words, for inputs such as `text`."""
        kinds = {SINGLE: "{} classification", MULTI: "multi-label {} classification"}
        return kinds.get(self.problem, "{} regression").format(inputs)


def check_labels(splits: datasets.DatasetDict, arguments: LabelArguments) -> None:
    """Raise ValueError for a column that does not exist, or a row without a label."""
    check_columns(splits, arguments.label_columns, "--label_column")
    empty = arguments.label_separator is not None
    for split, rows in splits.items():
        for column in arguments.label_columns:
            label_values(rows, column, str(split), may_be_empty=empty)


def read_labels(splits: datasets.DatasetDict, arguments: LabelArguments) -> Labels:
    """Read the labels of the training split.

    Raises:
        ValueError: a column does not exist; a row has no label; labels have several kinds, are
            all one class, or look like ids; or a regression has labels that are no numbers.
    """
    columns = tuple(arguments.label_columns)
    rows, separator = splits["train"], arguments.label_separator
    if len(columns) > 1:
        return Labels(problem=MULTI, columns=columns, names=columns)
    column = arguments.label_columns[0]
    values = label_values(rows, column, "train", may_be_empty=separator is not None)
    if separator is not None or is_list(rows.features[column]):
        names = _names_of_lists(rows, column, values, separator)
        return Labels(problem=MULTI, columns=columns, names=names, separator=separator)
    if _is_regression(rows, column, arguments.do_regression):
        return Labels(problem=REGRESSION, columns=columns, names=columns)
    names = class_names(rows.features[column], values)
    _check_classes(names, values, column)
    return Labels(problem=SINGLE, columns=columns, names=names)


def _is_regression(rows: datasets.Dataset, column: str, asked: bool | None) -> bool:
    if asked is None and getattr(rows.features[column], "dtype", "").startswith("float"):
        logger.warning(
            "warning: the column %s holds floating-point numbers, so they are predicted as numbers "
            "(regression). Give --do_regression False for classes.",
            column,
        )
        return True
    return bool(asked)


def _names_of_lists(
    rows: datasets.Dataset, column: str, values: Sequence[Any], separator: str | None
) -> tuple[str, ...]:
    if separator is None and (width := lists_of_bits(values)):
        return tuple(f"{column}_{i}" for i in range(width))
    items = (item for value in values for item in switch(value, separator))
    feature: Any = rows.features[column]
    names = class_names(getattr(feature, "feature", feature), list(items))
    if len(names) < 1:
        raise ValueError(f"no row of the train split has a label in the column {column}.")
    return names


def _check_classes(names: tuple[str, ...], values: Sequence[Any], column: str) -> None:
    counts = Counter(values)
    if len(counts) < 2:
        raise ValueError(
            f"all rows of the train split have one class in the column {column}: {shown(counts)} "
            f"(rows: {len(values)}). There is nothing to learn. Name the column with the classes "
            "with --label_column, or give rows of two classes that are not held out."
        )
    if len(values) >= _ROWS_OF_IDS and len(counts) > len(values) / 2:
        numbers = " Give --do_regression to predict numbers." if _all_numbers(counts) else ""
        raise ValueError(
            f"the column {column} looks like an id, not like a class: {len(values)} rows of the "
            f"train split have {len(counts)} values. Name the column with the classes with "
            f"--label_column.{numbers}"
        )


def _all_numbers(values: Iterable[Any]) -> bool:
    return all(is_number(value) for value in values)
