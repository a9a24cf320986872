"""Tiny families with more layers than two, so that some can be taken out of the middle."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from hf_td.modules.stock_models import stock_config
from tests.families import TABLE
from tests.tiny import with_random_biases

LAYERS = 4


def deep_family(name: str, seed: int = 0, layers: int = LAYERS) -> PreTrainedModel:
    """Return a tiny random model of so many layers, in eval mode, with biases and large weights.

    With weights of the usual size a layer changes the outputs of a tiny model by next to nothing.
    """
    model = TABLE[name].make()
    torch.manual_seed(seed)
    deep = type(model)(_deepened(model.config, layers))
    for parameter in deep.parameters():
        if parameter.dim() > 1 and parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    return with_random_biases(deep).eval()


def _deepened(config: Any, layers: int) -> Any:
    fields: dict[tuple[str, ...], Any] = {}
    for path, own in {(): config, **_nested(config)}.items():
        values: dict[str, Any] = vars(own)
        for field, value in values.items():
            if type(value) is int and value == 2 and field in _COUNTS:
                fields[*path, field] = layers
            if field == "layer_types" and isinstance(value, list):
                fields[*path, field] = value * (layers // 2)
    return stock_config(config, fields)


def _nested(config: Any) -> dict[tuple[str, ...], Any]:
    names = ("text_config", "vision_config")
    return {(name,): getattr(config, name) for name in names if hasattr(config, name)}


_COUNTS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "num_decoder_layers",
    "encoder_layers",
    "decoder_layers",
)
