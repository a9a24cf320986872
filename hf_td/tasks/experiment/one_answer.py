"""Notices a model that gives one answer for every row: it has learned nothing, or lost it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

# A spread of predicted numbers below this share of the spread of the true ones is none.
_FLAT = 1e-3


class OneAnswerWatch:
    """`compute_metrics` of a Trainer that also looks whether all answers are one.

    Args:
        compute: the metrics.

    Attributes:
        found: True if the last evaluation had one answer for all rows; None if that is unknown,
            as for texts.
    """

    def __init__(self, compute: Callable[[Any], dict[str, float]]) -> None:
        self.compute = compute
        self.found: bool | None = None

    def __call__(self, prediction: Any) -> dict[str, float]:
        """Return the metrics of an evaluation."""
        self.found = gives_one_answer(prediction.predictions, prediction.label_ids)
        return self.compute(prediction)


def gives_one_answer(predictions: Any, labels: Any) -> bool | None:
    """Return True if all rows get the same class, the same classes, or about the same number.

    Args:
        predictions: logits `(rows, classes)`, or numbers `(rows,)` or `(rows, 1)`; or a tuple that
            begins with them.
        labels: `(rows,)`, or of several classes at once `(rows, classes)`.

    Returns:
        None for other shapes, and where all labels are equal.
    """
    first = predictions[0] if isinstance(predictions, tuple) else predictions
    if not (isinstance(first, np.ndarray) and isinstance(labels, np.ndarray)):
        return None
    if len(labels) < 2 or first.ndim > 2 or bool((labels == labels[:1]).all()):
        return None
    if labels.ndim == first.ndim == 2 and labels.shape == first.shape and labels.shape[1] > 1:
        answers = first > 0
        return bool((answers == answers[:1]).all())
    if labels.ndim == 1 and first.ndim == 2 and first.shape[1] > 1:
        return len(np.unique(first.argmax(-1))) == 1
    if first.size == labels.size and labels.dtype.kind == "f":
        return bool(np.ptp(first) <= _FLAT * np.ptp(labels))
    return None
