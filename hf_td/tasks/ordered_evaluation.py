"""Evaluation in row order, for metrics that look up other data of the same rows."""

from __future__ import annotations

from typing import Any

from torch.utils.data import SequentialSampler
from transformers import Trainer


class OrderedEvaluation:
    """Mixin that makes a Trainer evaluate rows in their order.

    With `train_sampling_strategy="group_by_length"` the stock Trainer shuffles evaluation rows too.
    """

    def _get_eval_sampler(self, eval_dataset: Any) -> SequentialSampler:
        return SequentialSampler(eval_dataset)


class OrderedEvaluationTrainer(OrderedEvaluation, Trainer):
    """`transformers.Trainer` that evaluates rows in their order."""
