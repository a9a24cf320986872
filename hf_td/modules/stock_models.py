"""Builds stock models on the meta device, to compare their shapes with those of a model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import getitem
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PreTrainedModel

from hf_td.modules.compact_saving import LAYOUT_KEY

# The errors that configs and models raise for fields that contradict each other.
REFUSALS = (
    StrictDataclassError,
    ValueError,
    TypeError,
    RuntimeError,
    AssertionError,
    ZeroDivisionError,
)

# Names of attributes from a config to a nested one or to a field of it; and fields by such paths.
Path = tuple[str, ...]
Fields = Mapping[Path, Any]


def stock_config(config: Any, fields: Fields) -> Any:
    """Return a validated copy of a config, with some fields changed and without its layout."""
    values = config.to_dict()
    for (*path, name), value in fields.items():
        reduce(getitem, path, values)[name] = value
    _drop_layouts(values)
    return type(config).from_dict(values)


def _drop_layouts(values: dict[str, Any]) -> None:
    """Remove the layouts of a config and of the configs nested in it, in their JSON forms."""
    values.pop(LAYOUT_KEY, None)
    for nested in values.values():
        if isinstance(nested, dict):
            _drop_layouts(nested)


def stock_class(names: Any) -> type[PreTrainedModel] | None:
    """Return the first of some names that is a model class of transformers; None without one.

    Args:
        names: `architectures` of a config, which anybody may have written. A name of anything but
            a model class, such as a function, is passed over.
    """
    for name in names if isinstance(names, list | tuple) else ():
        found = getattr(transformers, name, None) if isinstance(name, str) else None
        if isinstance(found, type) and issubclass(found, PreTrainedModel):
            return found
    return None


def build_empty(model: nn.Module, config: Any) -> nn.Module:
    """Build a model of the same class from another config, on the meta device."""
    with torch.device("meta"):
        return type(model)(config)


def attempt(model: nn.Module, config: Any, fields: Fields) -> nn.Module | None:
    """Build a stock model with these fields; return None where its class refuses them."""
    try:
        return build_empty(model, stock_config(config, fields))
    except (*REFUSALS, LookupError):
        return None
