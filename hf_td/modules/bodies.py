"""Finds the body of a model: what is left without its head."""

from __future__ import annotations

from typing import Any

from torch import nn


def body_of(model: nn.Module) -> nn.Module:
    """Return the base model of a model, or the model itself, such as T5, whose head is inside.

    Of a model with adapters of peft it is the base model of the model inside.
    """
    unwrap: Any = getattr(model, "get_base_model", None)
    own: Any = model if unwrap is None else unwrap()
    base = getattr(own, "base_model", own)
    assert isinstance(base, nn.Module)
    return base
