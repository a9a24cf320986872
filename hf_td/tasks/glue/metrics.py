"""The GLUE metrics as `Trainer` wants them."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_td.extras import extra

from .tasks import Task, get_task

if TYPE_CHECKING:  # both take seconds to import
    from evaluate import EvaluationModule
    from transformers import EvalPrediction

METRIC_PATH = Path(__file__).parent / "metric" / "glue_metric.py"
"""The metric module's file, for `evaluate.load(str(METRIC_PATH), task_name)`."""


def load_metric(task_name: str) -> "EvaluationModule":
    """Load the `evaluate` metric of one task from the package itself, without any network.

    Args:
        task_name: A name in `TASKS`.

    Raises:
        ValueError: No task has this name.
    """
    import evaluate  # here, because it imports transformers, which takes seconds

    with extra("tasks"):
        import_module("scipy")
        import_module("sklearn")
    return evaluate.load(str(METRIC_PATH), get_task(task_name).name, keep_in_memory=True)


def compute_metrics(task: str | Task) -> Callable[["EvalPrediction"], dict[str, float]]:
    """Return the function for `Trainer(compute_metrics=...)` of one task.

    The function takes logits of shape `(rows, num_labels)`, or a tuple that starts with them, and
    labels of shape `(rows,)`. It returns the task's GLUE metrics as Python floats. Classes come by
    argmax; a regression also takes scores of shape `(rows,)`. An undefined value (constant
    predictions in a correlation, no positive in F1) is 0.0, never NaN.

    Args:
        task: The task or its name.

    Raises:
        ValueError: No task has this name. The returned function raises it where the logits do not
            have the task's shape.
    """
    task = get_task(task)
    metric = load_metric(task.name)

    def compute(prediction: "EvalPrediction") -> dict[str, float]:
        predictions = _predictions(prediction.predictions, task)
        references = np.asarray(prediction.label_ids).reshape(-1)
        return metric.compute(predictions=predictions, references=references) or {}

    return compute


def _predictions(output: np.ndarray | tuple, task: Task) -> np.ndarray:
    """Class ids, or scores for a regression, of shape `(rows,)`."""
    logits = np.asarray(output[0] if isinstance(output, tuple) else output)
    if task.is_regression and logits.ndim == 1:
        return logits
    if logits.ndim != 2 or not len(logits) or logits.shape[1] != task.num_labels:
        raise ValueError(
            f"Task {task.name!r} needs logits of shape (rows, {task.num_labels}) with at least "
            f"one row; got {logits.shape}. Load the model with num_labels={task.num_labels}."
        )
    return logits[:, 0] if task.is_regression else logits.argmax(axis=1)
