"""Scales terms that are added to a Trainer's loss."""

from __future__ import annotations

from typing import Any


def share_of_update(trainer: Any, num_items_in_batch: Any) -> float:
    """Return the factor that makes the mean over a micro-batch its part of the loss of an update.

    Some models return a loss that is already divided over the micro-batches of an update
    (`num_items_in_batch`): an added term has to be divided too. The loss of other models, added
    terms included, is divided by `Trainer`: the factor is 1.

    Args:
        trainer: a `transformers.Trainer` in training.
        num_items_in_batch: the argument of its `compute_loss`.
    """
    is_divided = trainer.model_accepts_loss_kwargs and num_items_in_batch is not None
    if is_divided or trainer.compute_loss_func is not None:
        return 1 / trainer.current_gradient_accumulation_steps
    return 1.0
