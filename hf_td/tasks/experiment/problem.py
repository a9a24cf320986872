"""What an experiment must know of its task; the rest of this room knows no more of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, Trainer


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A model to be fine-tuned on data, and how well it does.

    Attributes:
        task: name of the task.
        dataset: id on the Hub of its data, or their name.
        dataset_config: which part of the data.
        split: on which split it is measured.
        metric: the name, among what evaluation returns, of the metric that the curve shows.
        lower_is_better: whether a good model has a low metric.
        make_model: loads a fresh model; its new parts depend on the global random state.
        load_model: loads a model that was fine-tuned on the task, from its folder.
        processor: the tokenizer or image processor, saved beside the model.
        train_data: the training set, prepared for the model.
        eval_data: the validation set, or several by name; their metrics are then prefixed.
        collator: makes batches of it.
        compute_metrics: as `Trainer` takes it.
        reduce_logits: from the logits and labels of a batch, what `compute_metrics` needs of them,
            so that not all logits have to be kept; by default the logits themselves.
        trainer_family: what evaluates it; the Trainer of every method becomes one of this family.
    """

    task: str
    dataset: str
    dataset_config: str | None
    split: str
    metric: str
    lower_is_better: bool = False
    make_model: Callable[[], PreTrainedModel]
    load_model: Callable[[Path], PreTrainedModel]
    processor: Any
    train_data: Any
    eval_data: Any
    collator: Callable[[Any], Any]
    compute_metrics: Callable[[Any], dict[str, float]]
    reduce_logits: Callable[[Any, Tensor], Tensor] | None = None
    trainer_family: type[Trainer] = Trainer
