"""A small input on which any model of the library can be run once, to be read."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Container
from typing import Any

import torch
from torch import Tensor, nn

# Long enough for attention to mix tokens, short enough to cost nothing.
PROBE_LENGTH = 8


def probe_inputs(model: nn.Module) -> dict[str, Any]:
    """Keyword arguments for one forward of `model`, a batch of one on its device.

    Raises:
        ValueError: the main input of the model is of no known kind; the caller has to give one.
    """
    main = getattr(model, "main_input_name", "input_ids")
    if main not in _MAKERS or not hasattr(model, "config"):
        raise ValueError(
            f"cannot make an example input for {type(model).__name__}: its main input is "
            f"{main!r}, and the known ones are {sorted(_MAKERS)}; pass example_inputs={{...}}"
        )
    accepted = inspect.signature(model.forward).parameters
    inputs: dict[str, Any] = {name: _MAKERS[name](model) for name in _wanted(model, main, accepted)}
    if "use_cache" in accepted:
        inputs["use_cache"] = False
    return inputs


def _wanted(model: Any, main: str, accepted: Container[str]) -> list[str]:
    if getattr(model.config, "is_encoder_decoder", False):
        return [main, "decoder_input_ids"]
    towers = hasattr(model.config, "text_config") and hasattr(model.config, "vision_config")
    if towers and not model.can_generate():  # two encoders side by side, as in CLIP
        return [name for name in ("input_ids", "pixel_values") if name in accepted]
    return [main]


def _config_value(model: Any, name: str, default: Any = None) -> Any:
    """A setting of the model, or of one of its towers."""
    towers = (getattr(model.config, tower, None) for tower in ("text_config", "vision_config"))
    values = (getattr(config, name, None) for config in (model.config, *towers))
    return next((value for value in values if value is not None), default)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _dtype(model: nn.Module) -> torch.dtype:
    floating = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(floating, torch.float32)


def _token_ids(model: nn.Module) -> Tensor:
    vocabulary = _config_value(model, "vocab_size", default=32)
    # Distinct ids from the middle of the vocabulary: special tokens sit at its ends.
    ids = torch.arange(PROBE_LENGTH) + max(0, vocabulary // 2 - PROBE_LENGTH)
    return (ids % vocabulary)[None].to(_device(model))


def _pixels(model: nn.Module) -> Tensor:
    size = _config_value(model, "image_size", default=224)
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    channels = _config_value(model, "num_channels", default=3)
    noise = torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(0))
    return noise.to(_device(model), _dtype(model))


def _mel_features(model: nn.Module) -> Tensor:
    bins = _config_value(model, "num_mel_bins", default=80)
    frames = 2 * _config_value(model, "max_source_positions", default=1500)
    noise = torch.rand(1, bins, frames, generator=torch.Generator().manual_seed(0))
    return noise.to(_device(model), _dtype(model))


def _waveform(model: nn.Module) -> Tensor:
    # The shortest wave of which a stack of convolutions leaves that many frames.
    strides = _config_value(model, "conv_stride", default=(320,))
    samples = math.prod(strides) * (PROBE_LENGTH + 2)
    noise = torch.rand(1, samples, generator=torch.Generator().manual_seed(0))
    return noise.to(_device(model), _dtype(model))


_MAKERS: dict[str, Callable[[nn.Module], Tensor]] = {
    "input_ids": _token_ids,
    "decoder_input_ids": _token_ids,
    "input_features": _mel_features,
    "input_values": _waveform,
    "pixel_values": _pixels,
}
