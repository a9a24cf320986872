"""Scales the terms of a Trainer's loss to their share of an update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


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


@torch.no_grad()
def divides_by_items(model: nn.Module, inputs: Mapping[str, Any], items: Any) -> bool | None:
    """Return True if a model divides its loss by `num_items_in_batch`, False if it ignores that.

    Two forwards in eval mode, for one number of items and for twice as many, leave the model and
    the random state as they were.

    Args:
        model: a model that accepts `num_items_in_batch`.
        inputs: keyword arguments of its forward, with labels.
        items: a number of items: an int or a tensor.

    Returns:
        None if the losses do not tell: they are 0, or not finite.
    """
    training = {module for module in model.modules() if module.training}
    device = next(model.parameters()).device
    devices = [] if device.type == "cpu" else [device]
    losses = []
    model.eval()
    try:
        for number in (items, 2 * items):
            with torch.random.fork_rng(devices, device_type=device.type):
                outputs = model(**inputs, num_items_in_batch=number)
            losses.append(outputs["loss"] if isinstance(outputs, dict) else outputs[0])
    finally:
        for module in training:
            module.training = True
    one, half = (float(loss.float().mean()) for loss in losses)
    if one == 0 or not torch.isfinite(torch.tensor([one, half])).all():
        return None
    return abs(one - half) > 1e-3 * abs(one)
