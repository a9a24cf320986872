"""The interface between a kind of task and the experiment that fine-tunes on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, Trainer


@dataclass(frozen=True, kw_only=True)
class Task:
    """A model to fine-tune, its data, and its metric.

    Attributes:
        name: the task, as results and model cards show it.
        dataset: Hub id of the data, or a description of them.
        dataset_config: configuration of the data set, if it has several.
        split: split that is evaluated.
        labels: names of the classes, or of the number that is predicted; empty for other tasks.
        metric: key in the evaluation's result of the metric that the curve shows.
        lower_is_better: True where a good model has a low metric.
        make_model: loads the pretrained model; new weights depend on the global random state.
        load_model: loads a fine-tuned model from its folder.
        processor: tokenizer or image processor; saved next to the model.
        train_data: training set, prepared for the model.
        eval_data: validation set, or a dictionary of several; their names then prefix the metrics.
        transfer_data: rows without labels, prepared as `train_data`, for runs with a teacher.
        variants: variants of each training row in an epoch of a run with a teacher.
        collator: makes a batch of rows.
        compute_metrics: argument of `Trainer`.
        reduce_logits: maps the logits and labels of a batch to what `compute_metrics` needs, to
            save memory; by default the logits are kept.
        continue_text: lets a language model continue a text of the validation set; returns its
            beginning and what the model wrote. None for other tasks.
        trainer_family: Trainer class that can evaluate the task; every method's Trainer is combined
            with it.
    """

    name: str
    dataset: str
    dataset_config: str | None
    split: str
    labels: tuple[str, ...] = ()
    metric: str
    lower_is_better: bool = False
    make_model: Callable[[], PreTrainedModel]
    load_model: Callable[[Path], PreTrainedModel]
    processor: Any
    train_data: Any
    eval_data: Any
    transfer_data: Any = None
    variants: int = 0
    collator: Callable[[Any], Any]
    compute_metrics: Callable[[Any], dict[str, float]]
    reduce_logits: Callable[[Any, Tensor], Tensor] | None = None
    continue_text: Callable[[PreTrainedModel], tuple[str, str]] | None = None
    trainer_family: type[Trainer] = Trainer


def count_rows(data: Any) -> int | None:
    """Return the number of rows of a data set, or of several; None where it is not known."""
    if isinstance(data, dict):
        counts = [count_rows(one) for one in data.values()]
        return None if None in counts else sum(filter(None, counts))
    return len(data) if hasattr(data, "__len__") else None
