"""Metrics of labels by their kind, as functions for `Trainer`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from hf_td.extras import extra
from hf_td.tasks.labels.reading import MULTI, REGRESSION, SINGLE, Labels

if TYPE_CHECKING:  # takes seconds to import
    from transformers import EvalPrediction

# Names by kind; the first is the default. `f1` exists for two classes only.
_NAMES = {
    SINGLE: ("accuracy", "macro_f1", "f1"),
    MULTI: ("micro_f1", "macro_f1", "accuracy"),
    REGRESSION: ("pearson", "spearmanr", "rmse"),
}
_ERRORS = frozenset({"rmse"})


def metric_names(labels: Labels) -> tuple[str, ...]:
    """Return the names of the metrics of labels; the first is the default."""
    names = _NAMES[labels.problem]
    return names if labels.problem != SINGLE or len(labels.names) == 2 else names[:-1]


def check_metric(labels: Labels, wanted: str | None) -> str:
    """Return the wanted metric, or the default for None.

    Raises:
        ValueError: labels of this kind have no such metric.
    """
    names = metric_names(labels)
    if wanted is not None and wanted not in names:
        raise ValueError(
            f"--metric {wanted} does not exist for a task of the kind {labels.problem} with "
            f"{len(labels.names)} labels. Give one of {', '.join(names)}."
        )
    return names[0] if wanted is None else wanted


def lower_is_better(metric: str) -> bool:
    """Return True for an error."""
    return metric in _ERRORS


def first_output(logits: Any, labels: Tensor) -> Tensor:
    """Return the logits alone: some models also return hidden states, which fill the memory."""
    return logits[0] if isinstance(logits, tuple) else logits


def label_metrics(labels: Labels) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return the function for `Trainer(compute_metrics=...)`.

    It takes logits `(rows, names)` and the targets of `encode`. An undefined value (a correlation
    with a constant, F1 without positives) is 0.0.
    """
    functions, names = _functions(labels.problem), metric_names(labels)

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        logits = np.asarray(first_output(prediction.predictions, prediction.label_ids))  # type: ignore
        found = _predicted(logits, labels.problem)
        true = np.asarray(prediction.label_ids).reshape(found.shape)
        return {name: float(functions[name](found, true)) for name in names}

    return compute


def _predicted(logits: np.ndarray, problem: str) -> np.ndarray:
    if problem == REGRESSION:
        return logits.reshape(-1)
    return (logits > 0).astype(int) if problem == MULTI else logits.argmax(-1)


def _functions(problem: str) -> Mapping[str, Callable[[Any, Any], float]]:
    with extra("tasks"):
        from hf_td.tasks.glue import glue_metric

    if problem == REGRESSION:
        return {
            "pearson": glue_metric.pearson,
            "spearmanr": glue_metric.spearmanr,
            "rmse": lambda found, true: np.sqrt(np.square(found - true).mean()),
        }
    return {
        "accuracy": glue_metric.accuracy,
        "f1": glue_metric.f1,
        "micro_f1": lambda found, true: _averaged_f1(found, true, "micro"),
        "macro_f1": lambda found, true: _averaged_f1(found, true, "macro"),
    }


def _averaged_f1(found: np.ndarray, true: np.ndarray, average: str) -> float:
    with extra("tasks"):
        from sklearn.metrics import f1_score

    return float(f1_score(true, found, average=average, zero_division=0.0))  # pyright: ignore
