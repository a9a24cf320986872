"""Gives a model configs of its own before something is recorded in them.

Models that were built from one config hold that very object. What is recorded of one of them, such
as the shapes of a compact model, would be recorded of all.
"""

from __future__ import annotations

import copy
import gc
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from hf_td.modules.compact_shapes import OwnConfig


def unshare_config(model: nn.Module) -> None:
    """Replace the configs of a model and its parts by copies, which no other model has.

    Parts that share a config share its copy. So does a model that `model` is a part of: its
    checkpoint has the records of its parts.
    """
    copies: dict[int, Any] = {}
    for module in _around(model).modules():
        for name, value in vars(module).items():
            if isinstance(value, PreTrainedConfig | OwnConfig):
                vars(module)[name] = copy.deepcopy(value, copies)


def _around(model: Any) -> nn.Module:
    """Return the largest model that contains this one and shares its config, or this one."""
    config = getattr(model, "config", None)
    # Nothing is around a model with a head, and the search takes a tenth of a second.
    if config is None or getattr(model, "base_model", model) is not model:
        return model
    # A part has no reference to the model around it.
    modules = [one for one in gc.get_objects() if issubclass(type(one), nn.Module)]
    sharing = [one for one in modules if vars(one).get("config") is config]
    around = [one for one in sharing if any(part is model for part in one.modules())]
    return max(around, key=lambda one: sum(1 for _ in one.modules()), default=model)
