"""What is added to a Trainer's loss has to be scaled as that loss is."""

from __future__ import annotations

from typing import Any


def share_of_update(trainer: Any, num_items_in_batch: Any) -> float:
    """What to multiply the mean over a micro-batch with, so that it counts right in its update.

    Some models return a loss that is already divided over the micro-batches of an update
    (`num_items_in_batch`); what others return, `Trainer` divides itself, with all that was added.

    Args:
        trainer: a `transformers.Trainer` in training.
        num_items_in_batch: what its `compute_loss` was given.
    """
    is_divided = trainer.model_accepts_loss_kwargs and num_items_in_batch is not None
    if is_divided or trainer.compute_loss_func is not None:
        return 1 / trainer.current_gradient_accumulation_steps
    return 1.0
