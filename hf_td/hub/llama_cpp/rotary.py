"""The rotary embedding of a Llama, in the terms of llama.cpp."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

UNSCALED = "default"
# The scalings of Transformers that divide each frequency by a number, and do nothing else.
STATIC = (UNSCALED, "linear", "llama3")


def scaling_of(config: Any) -> str:
    """Return the name of the scaling."""
    return config.rope_parameters.get("rope_type", UNSCALED)


def frequency_base(config: Any) -> float:
    """Return the base of the frequencies before they are scaled."""
    return float(config.rope_parameters["rope_theta"])


def frequency_factors(config: Any, head_size: int) -> Tensor | None:
    """Return what a static scaling divides each frequency by, `(head_size / 2,)`; None for ones."""
    if scaling_of(config) == UNSCALED:
        return None
    scaled, _ = ROPE_INIT_FUNCTIONS[scaling_of(config)](config, torch.device("cpu"))
    powers = torch.arange(0, head_size, 2, dtype=torch.float32) / head_size
    return 1 / frequency_base(config) ** powers / scaled
