"""Replaces the label columns of a split by the targets of a model."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import datasets

from hf_td.tasks.labels.reading import MULTI, REGRESSION, Labels
from hf_td.tasks.labels.values import label_values, lists_of_bits, name_of, shown, switch

logger = logging.getLogger(__name__)

TARGETS = "labels"


def encode(rows: datasets.Dataset, labels: Labels, split: str) -> datasets.Dataset:
    """Replace the label columns by `labels`.

    A class becomes its id, several classes 0.0 or 1.0 for each class, a number stays one.

    Args:
        rows: rows of the split.
        labels: labels of the training split.
        split: name of the split, for messages.

    Raises:
        ValueError: a row has no label, or one that is not in `labels`, or no number for a
            regression.
    """
    targets, feature = _targets(rows, labels, split)
    removed = {*labels.columns, TARGETS} & set(rows.column_names)
    return rows.remove_columns(list(removed)).add_column(TARGETS, targets, feature=feature)  # type: ignore


def warn_if_alike(rows: datasets.Dataset, split: str) -> None:
    """Warn if all rows that will be measured have one target: no metric tells anything there.

    Args:
        rows: rows that `encode` returned, or some of them.
        split: name of the split, for the message.
    """
    targets = rows[TARGETS][:]
    if len(targets) > 1 and all(target == targets[0] for target in targets):
        logger.warning(
            "warning: all %d rows to measure of the %s split have one label, so the metrics say "
            "little. A file may be sorted by label: --max_eval_samples takes its first rows. Leave "
            "it out, or shuffle the rows.",
            len(targets),
            split,
        )


def _targets(rows: datasets.Dataset, labels: Labels, split: str) -> tuple[list[Any], Any]:
    empty = labels.separator is not None
    columns = [label_values(rows, n, split, may_be_empty=empty) for n in labels.columns]
    if labels.problem == REGRESSION:
        return _numbers(columns[0], labels, split), datasets.Value("float32")
    if labels.problem == MULTI:
        several = _bits if len(columns) > 1 else _switches
        return several(columns, labels, split), datasets.List(datasets.Value("float32"))
    ids = {name: i for i, name in enumerate(labels.names)}
    classes = datasets.ClassLabel(names=list(labels.names))
    return [ids[name] for name in _known(columns[0], labels, split)], classes


def _numbers(values: Sequence[Any], labels: Labels, split: str) -> list[float]:
    wrong = [value for value in values if not _is_finite(value)]
    if wrong:
        raise ValueError(
            f"a regression needs finite numbers. The column {labels.columns[0]} of the {split} "
            f"split holds {shown(wrong)}."
        )
    return [float(value) for value in values]


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _bits(columns: Sequence[Sequence[Any]], labels: Labels, split: str) -> list[list[float]]:
    for name, values in zip(labels.columns, columns, strict=True):
        wrong = [value for value in values if isinstance(value, str) or value not in (0, 1)]
        if wrong:
            raise ValueError(
                f"several label columns must hold 0 and 1. The column {name} of the {split} split "
                f"holds {shown(wrong)}."
            )
    return [[float(value) for value in row] for row in zip(*columns, strict=True)]


def _switches(columns: Sequence[Sequence[Any]], labels: Labels, split: str) -> list[list[float]]:
    rows, separator = columns[0], labels.separator
    listed = all(name == f"{labels.columns[0]}_{i}" for i, name in enumerate(labels.names))
    if listed and separator is None and lists_of_bits(rows) == len(labels.names):
        return [[float(value) for value in row] for row in rows]
    chosen = [[name_of(item) for item in switch(row, separator)] for row in rows]
    _known([item for row in chosen for item in row], labels, split)
    return [[float(name in row) for name in labels.names] for row in map(set, chosen)]


def _known(values: Sequence[Any], labels: Labels, split: str) -> list[str]:
    """Return the names of classes; raise ValueError for one that no training row has."""
    names = [name_of(value) for value in values]
    unknown = set(names) - set(labels.names)
    if unknown:
        raise ValueError(
            f"the column {labels.columns[0]} of the {split} split has labels that no training row "
            f"has: {shown(unknown)}. The training rows have {shown(labels.names)}. Add rows with "
            "them to the training data, or remove these."
        )
    return names
