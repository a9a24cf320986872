"""The GLUE tasks: columns, labels, metrics and validation splits of each."""

import difflib
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a program must know of one task.

    Attributes:
        name: The name, which is also the dataset's configuration name.
        sentences: The text columns, one or two.
        num_labels: The number of classes; 1 means regression.
        metrics: The names of the metrics that the GLUE benchmark reports.
        primary: The one of `metrics` that a curve shows.
        validation_splits: The splits with public labels.
    """

    name: str
    sentences: tuple[str, ...]
    num_labels: int
    metrics: tuple[str, ...]
    primary: str
    validation_splits: tuple[str, ...] = ("validation",)

    @property
    def is_regression(self) -> bool:
        """Whether the labels are scores instead of classes."""
        return self.num_labels == 1


def _task(name: str, sentences: str, metrics: str, num_labels: int = 2, **extra) -> Task:
    names = tuple(metrics.split())
    return Task(
        name=name,
        sentences=tuple(sentences.split()),
        num_labels=num_labels,
        metrics=names,
        primary=names[0],
        **extra,
    )


_MNLI_SPLITS = ("validation_matched", "validation_mismatched")

_ALL_TASKS = (
    _task("mnli", "premise hypothesis", "accuracy", 3, validation_splits=_MNLI_SPLITS),
    _task("qqp", "question1 question2", "accuracy f1"),
    _task("qnli", "question sentence", "accuracy"),
    _task("sst2", "sentence", "accuracy"),
    _task("cola", "sentence", "matthews_correlation"),
    _task("stsb", "sentence1 sentence2", "pearson spearmanr", 1),
    _task("mrpc", "sentence1 sentence2", "accuracy f1"),
    _task("rte", "sentence1 sentence2", "accuracy"),
    _task("wnli", "sentence1 sentence2", "accuracy"),
    _task("acceptability", "sentence", "accuracy matthews_correlation"),
)

TASKS: dict[str, Task] = {task.name: task for task in _ALL_TASKS}
"""The nine GLUE tasks and the built-in one, by name."""


def get_task(name: str | Task) -> Task:
    """Return the task called `name`; a `Task` is returned as it is.

    Raises:
        ValueError: No task has this name; the message lists those that exist.
    """
    if isinstance(name, Task):
        return name
    if name not in TASKS:
        raise ValueError(f"Unknown task {name!r}.{_suggestion(name)} Tasks: {', '.join(TASKS)}.")
    return TASKS[name]


def _suggestion(name: str) -> str:
    close = difflib.get_close_matches(name.lower().replace("-", ""), TASKS, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
