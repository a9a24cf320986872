"""Gives some parameters of an optimiser their own learning rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from torch import nn
from torch.optim import Optimizer

from hf_td.modules.bodies import body_of


def scale_untargeted(optimizer: Optimizer, model: Any, scale: float) -> None:
    """Split norms, biases and the head off each parameter group, with a scaled learning rate.

    These few parameters have to make up for everything that is dropped. Sparse weights could not
    move as fast.

    Args:
        optimizer: an optimiser before its first step; its groups are changed in place.
        model: the model of its parameters. Everything outside its `base_model` is the head, and
            so is a logit layer inside that shares nothing with the embeddings. Of a model with
            adapters of peft it is the head of the model inside.
        scale: the factor of the learning rate, positive.

    Raises:
        ValueError: the optimiser has no learning rate.
    """
    if any(group.get("lr") is None for group in optimizer.param_groups):
        raise ValueError(
            f"scale_untargeted multiplies the learning rate, and {type(optimizer).__name__} has "
            "none: lr is None. Give it one, as in Adafactor(..., lr=1e-3, relative_step=False), or "
            "leave untargeted_lr_scale out"
        )
    _split_off(optimizer, _untargeted(model), lambda group: {"lr": group["lr"] * scale})


def _untargeted(model: nn.Module) -> set[int]:
    base = body_of(model)
    body = {id(p) for p in base.parameters() if p.dim() > 1}
    # The base model of T5 has the head inside; those of most models have no such layer.
    body -= _of_embeddings(base, "output") - _of_embeddings(base, "input")
    return {id(p) for p in model.parameters() if id(p) not in body}


def _of_embeddings(model: Any, side: str) -> set[int]:
    """Return the parameters of the input embeddings or of the logit layer, if there is one."""
    # Models without such a layer (images, sound, any plain module) raise one of these.
    with suppress(AttributeError, NotImplementedError):
        found = getattr(model, f"get_{side}_embeddings")()
        return {id(p) for p in found.parameters()} if isinstance(found, nn.Module) else set()
    return set()


def set_learning_rate(
    optimizer: Optimizer, parameters: Iterable[nn.Parameter], learning_rate: float
) -> None:
    """Split parameters off their groups, with their own learning rate and no weight decay.

    Args:
        optimizer: an optimiser before its first step; its groups are changed in place.
        parameters: some of its parameters.
        learning_rate: the learning rate of these.
    """
    own = {"lr": learning_rate, "weight_decay": 0.0}
    _split_off(optimizer, {id(p) for p in parameters}, lambda group: own)


def _split_off(
    optimizer: Optimizer, chosen: set[int], settings: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """Move the parameters of these ids to new groups, with other settings than their old group.

    No group is left empty: sharded checkpoints lose the settings of such a group.
    """
    for group in list(optimizer.param_groups):
        moved = [p for p in group["params"] if id(p) in chosen]
        stay = [p for p in group["params"] if id(p) not in chosen]
        if moved and stay:
            group["params"] = stay
            optimizer.add_param_group({**group, "params": moved, **settings(group)})
        elif moved:
            group.update(settings(group))
