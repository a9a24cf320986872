"""The GLUE metrics as functions for `Trainer`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_td.extras import extra
from hf_td.tasks.glue.benchmark import GlueTask, get_glue_task

if TYPE_CHECKING:  # both take seconds to import
    from evaluate import EvaluationModule
    from transformers import EvalPrediction

METRIC_PATH = Path(__file__).parent / "glue_metric.py"
"""File of the metric module, for `evaluate.load(str(METRIC_PATH), task_name)`."""


def load_metric(task_name: str) -> EvaluationModule:
    """Load the `evaluate` metric of one task from this package, without a network.

    Args:
        task_name: key of `GLUE_TASKS`.

    Raises:
        ValueError: no task has this name.
    """
    import evaluate  # here, because it imports transformers, which takes seconds

    with extra("tasks"):  # the metric module needs both
        import_module("scipy")
        import_module("sklearn")
    return evaluate.load(str(METRIC_PATH), get_glue_task(task_name).name, keep_in_memory=True)


def compute_metrics(task: str | GlueTask) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return the function for `Trainer(compute_metrics=...)` of one task.

    The function takes logits `(rows, num_labels)`, or a tuple that starts with them, and labels
    `(rows,)`; for a regression also scores `(rows,)`. It returns the metrics that GLUE reports.
    An undefined value (a correlation with a constant, F1 without positives) is 0.0.

    Args:
        task: the task or its name.

    Raises:
        ValueError: no task has this name. The returned function raises it for logits of another
            shape.
    """
    task = get_glue_task(task)
    metric = load_metric(task.name)

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        predictions = _predictions(prediction.predictions, task)
        references = np.asarray(prediction.label_ids).reshape(-1)
        return metric.compute(predictions=predictions, references=references) or {}

    return compute


def _predictions(output: np.ndarray | tuple, task: GlueTask) -> np.ndarray:
    """Return class ids, or scores for a regression, `(rows,)`."""
    logits = np.asarray(output[0] if isinstance(output, tuple) else output)
    if task.is_regression and logits.ndim == 1:
        return logits
    if logits.ndim != 2 or not len(logits) or logits.shape[1] != task.num_labels:
        raise ValueError(
            f"Task {task.name!r} needs logits of shape (rows, {task.num_labels}) with at least "
            f"one row; got {logits.shape}. Load the model with num_labels={task.num_labels}."
        )
    return logits[:, 0] if task.is_regression else logits.argmax(axis=1)
