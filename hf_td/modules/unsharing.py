"""Gives a model configs of its own before something is recorded in them.

Models that were built from one config hold that very object. What is recorded of one of them, such
as the shapes of a compact model, would be recorded of all.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import nn
from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from hf_td.modules.compact_shapes import OwnConfig


def unshare_config(model: nn.Module) -> None:
    """Replace the configs of a model and its parts by copies, which no other model has.

    Parts that share a config share its copy. A model without a head keeps the configs that it has:
    it can be part of another, whose checkpoint has to have the records of its parts.
    """
    if _has_no_head(model):
        return
    copies: dict[int, Any] = {}
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, PreTrainedConfig | OwnConfig):
                vars(module)[name] = copy.deepcopy(value, copies)


def _has_no_head(model: nn.Module) -> bool:
    names = MODEL_MAPPING_NAMES.values()
    return any(type(model).__name__ in ([one] if isinstance(one, str) else one) for one in names)
