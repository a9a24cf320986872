"""A learning rate of their own for parameters that are not like the others."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from torch import nn
from torch.optim import Optimizer


def scale_untargeted(optimizer: Optimizer, model: Any, scale: float) -> None:
    """Split norms, biases and the head off each parameter group, with a scaled learning rate.

    They are few and have to make up for all that is dropped; what is sparse cannot move as fast.

    Args:
        optimizer: one that has made no step yet; its groups are changed in place.
        model: whose parameters it has; what is outside of `model.base_model` is its head, and so
            is a logit layer inside that shares nothing with the embeddings.
        scale: of the learning rate, positive.
    """
    untargeted = _untargeted(model)
    for group in list(optimizer.param_groups):
        chosen = [p for p in group["params"] if id(p) in untargeted]
        if chosen:
            group["params"] = [p for p in group["params"] if id(p) not in untargeted]
            optimizer.add_param_group({**group, "params": chosen, "lr": group["lr"] * scale})


def _untargeted(model: nn.Module) -> set[int]:
    base = getattr(model, "base_model", model)
    assert isinstance(base, nn.Module)
    body = {id(p) for p in base.parameters() if p.dim() > 1}
    if base is model:  # as T5's, which has no model without the head
        body -= _of_embeddings(base, "output") - _of_embeddings(base, "input")
    return {id(p) for p in model.parameters() if id(p) not in body}


def _of_embeddings(model: Any, side: str) -> set[int]:
    """The parameters of the input embeddings or of the logit layer; none where it has no such."""
    # Models without such a layer raise one or the other: of images, of sound, or any plain module.
    with suppress(AttributeError, NotImplementedError):
        found = getattr(model, f"get_{side}_embeddings")()
        return {id(p) for p in found.parameters()} if isinstance(found, nn.Module) else set()
    return set()


def set_learning_rate(
    optimizer: Optimizer, parameters: Iterable[nn.Parameter], learning_rate: float
) -> None:
    """Split parameters off their groups, with a learning rate of their own and no weight decay.

    Args:
        optimizer: one that has made no step yet; its groups are changed in place.
        parameters: some of those that it has.
        learning_rate: theirs.
    """
    wanted = {id(p) for p in parameters}
    for group in list(optimizer.param_groups):
        chosen = [p for p in group["params"] if id(p) in wanted]
        if chosen:
            group["params"] = [p for p in group["params"] if id(p) not in wanted]
            own = {"params": chosen, "lr": learning_rate, "weight_decay": 0.0}
            optimizer.add_param_group({**group, **own})
