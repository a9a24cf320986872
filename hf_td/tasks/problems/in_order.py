"""Evaluation in the order of the rows, for metrics that read other data of the same rows."""

from __future__ import annotations

from typing import Any

from torch.utils.data import SequentialSampler
from transformers import Trainer


class InOrder:
    """Makes a Trainer evaluate the rows in their order.

    With `train_sampling_strategy="group_by_length"` the stock Trainer shuffles them, so that the
    first prediction is no longer that of the first row.
    """

    def _get_eval_sampler(self, eval_dataset: Any) -> SequentialSampler:
        return SequentialSampler(eval_dataset)


class InOrderTrainer(InOrder, Trainer):
    """`transformers.Trainer` that evaluates the rows in their order."""
