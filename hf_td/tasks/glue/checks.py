"""Checks that loaded data fit their GLUE task."""

from __future__ import annotations

import math

import datasets

from hf_td.extras import extra
from hf_td.tasks.data.files import check_fields
from hf_td.tasks.glue.benchmark import GlueTask

with extra("tasks"):
    import pyarrow as pa


def check_splits(found: datasets.DatasetDict, task: GlueTask, source: str) -> None:
    """Raise ValueError if the training split or a validation split is missing."""
    missing = [split for split in ("train", *task.validation_splits) if split not in found]
    if missing:
        raise ValueError(
            f"{source} lacks the split {', '.join(missing)} of task {task.name!r}. "
            f"Splits found: {', '.join(map(str, found))}."
        )


def check_columns(split: datasets.Dataset, task: GlueTask, where: str) -> None:
    """Raise ValueError if `split` has no rows, or lacks a text column or the label column.

    Columns that are one to the left, as of a csv with a comma too many, have the right names.
    """
    try:
        check_fields(split)
    except ValueError as error:
        raise ValueError(f"{where} cannot be read: {error}.") from error
    missing = [name for name in (*task.sentences, "label") if name not in split.column_names]
    if missing:
        raise ValueError(
            f"{where} lacks the column {', '.join(missing)} of task {task.name!r}. "
            f"Columns found: {', '.join(split.column_names)}."
        )
    if not len(split):
        raise ValueError(f"{where} has no rows. Task {task.name!r} needs at least one.")
    for column in task.sentences:
        _check_text(split, column, where)


def check_labels(split: datasets.Dataset, task: GlueTask, where: str) -> None:
    """Raise ValueError for a label that is no class id, or no score, of `task`.

    Class ids are whole numbers in 0..num_labels-1; scores are finite numbers of at least 0.
    """
    labels = _column(split, "label")
    if task.is_regression:
        _check_scores(labels, task, where)
    else:
        _check_class_ids(labels, task, where)


def _column(split: datasets.Dataset, name: str) -> pa.ChunkedArray:
    return split.with_format("arrow")[:][name]


def _check_text(split: datasets.Dataset, column: str, where: str) -> None:
    text = _column(split, column)
    if not (pa.types.is_string(text.type) or pa.types.is_large_string(text.type)):
        raise ValueError(f"{where}: the column {column!r} must hold text. It holds {text.type}.")
    if text.null_count:
        raise ValueError(
            f"{where}: {text.null_count} rows have no text in the column {column!r}. Remove them."
        )


def _check_class_ids(labels: pa.ChunkedArray, task: GlueTask, where: str) -> None:
    expected = (
        f"{where}: labels of task {task.name!r} must be whole numbers 0..{task.num_labels - 1}"
    )
    if not pa.types.is_integer(labels.type):
        raise ValueError(f"{expected}. The column 'label' holds {labels.type}.")
    found = labels.unique().to_pylist()
    wrong = [label for label in found if label is None or not 0 <= label < task.num_labels]
    if wrong:
        raise ValueError(f"{expected}. Found {_listed(wrong)}.{_hidden_hint(wrong)}")


def _check_scores(labels: pa.ChunkedArray, task: GlueTask, where: str) -> None:
    expected = f"{where}: labels of task {task.name!r} must be scores of at least 0"
    if not (pa.types.is_floating(labels.type) or pa.types.is_integer(labels.type)):
        raise ValueError(f"{expected}. The column 'label' holds {labels.type}.")
    found = labels.unique().to_pylist()
    wrong = [score for score in found if score is None or not 0 <= score < math.inf]
    if wrong:
        raise ValueError(f"{expected}. Found {_listed(wrong)}.{_hidden_hint(wrong)}")


def _listed(labels: list) -> str:
    shown = ", ".join(sorted(str(label) for label in labels)[:8])
    return shown if len(labels) <= 8 else f"{shown}, ..."


def _hidden_hint(labels: list) -> str:
    return " GLUE hides test labels as -1; use the validation split." if -1 in labels else ""
