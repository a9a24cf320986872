"""The tasks of the GLUE benchmark: columns, labels, metrics and validation splits."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class GlueTask:
    """A task of GLUE, or the built-in one.

    Attributes:
        name: name of the task and of its data set configuration.
        sentences: text columns, one or two.
        num_labels: number of classes; 1 means regression.
        metrics: names of the metrics that GLUE reports.
        primary: the metric that a curve shows.
        validation_splits: splits with public labels.
    """

    name: str
    sentences: tuple[str, ...]
    num_labels: int
    metrics: tuple[str, ...]
    primary: str
    validation_splits: tuple[str, ...] = ("validation",)

    @property
    def is_regression(self) -> bool:
        """True where labels are scores, not classes."""
        return self.num_labels == 1


def _row(name: str, sentences: str, metrics: str, num_labels: int = 2, **extra: Any) -> GlueTask:
    names = tuple(metrics.split())
    return GlueTask(
        name=name,
        sentences=tuple(sentences.split()),
        num_labels=num_labels,
        metrics=names,
        primary=names[0],
        **extra,
    )


_MNLI_SPLITS = ("validation_matched", "validation_mismatched")

_ROWS = (
    _row("mnli", "premise hypothesis", "accuracy", 3, validation_splits=_MNLI_SPLITS),
    _row("qqp", "question1 question2", "accuracy f1"),
    _row("qnli", "question sentence", "accuracy"),
    _row("sst2", "sentence", "accuracy"),
    _row("cola", "sentence", "matthews_correlation"),
    _row("stsb", "sentence1 sentence2", "pearson spearmanr", 1),
    _row("mrpc", "sentence1 sentence2", "accuracy f1"),
    _row("rte", "sentence1 sentence2", "accuracy"),
    _row("wnli", "sentence1 sentence2", "accuracy"),
    _row("acceptability", "sentence", "accuracy matthews_correlation"),
)

GLUE_TASKS: dict[str, GlueTask] = {task.name: task for task in _ROWS}
"""The nine GLUE tasks and the built-in one, by name."""


def get_glue_task(name: str | GlueTask) -> GlueTask:
    """Return the task called `name`; a `GlueTask` is returned unchanged.

    Raises:
        ValueError: no task has this name; the message lists the names.
    """
    if isinstance(name, GlueTask):
        return name
    if name not in GLUE_TASKS:
        close = difflib.get_close_matches(name.lower().replace("-", ""), GLUE_TASKS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"Unknown task {name!r}.{hint} Tasks: {', '.join(GLUE_TASKS)}.")
    return GLUE_TASKS[name]
