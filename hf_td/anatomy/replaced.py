"""What other libraries put in the place of linear layers and forwards, and what cannot be read."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from hf_td.modules.layouts import layout_of, stacks_of

_PACKED = (torch.uint8, torch.int8, torch.int16, torch.int32)


def replaced_forwards(model: nn.Module) -> dict[str, str]:
    """Names of the modules whose forward was replaced on the instance, and what replaced it.

    Linear layers and experts are left out: whether these can be targeted is told one by one.
    """
    forwards = {
        name: forward
        for name, module in model.named_modules()
        if (forward := module.__dict__.get("forward"))  # few have one: the cheap question first
        and layout_of(module) is None
        and not stacks_of(module)
    }
    return {n: getattr(f, "__qualname__", repr(type(f))) for n, f in forwards.items()}


def check_not_packed(model: nn.Module) -> None:
    """Raise TypeError where linear layers keep integers for weights, as quantised ones do."""
    packed = {name: m for name, m in model.named_modules() if _is_packed(m)}
    if packed:
        name, layer = next(iter(packed.items()))
        kind = type(layer)
        raise TypeError(
            f"{len(packed)} layers of {type(model).__name__} are quantised, such as {name}, a "
            f"{kind.__module__}.{kind.__qualname__}: packed weights can be neither ranked nor set "
            "to zero; load the model without quantization_config, and quantise the pruned one"
        )


def check_has_values(model: nn.Module) -> None:
    """Raise ValueError where a model is on the device meta, as one that is yet to be loaded."""
    first = next(model.parameters(), None)
    if first is not None and first.is_meta:
        raise ValueError(
            f"the weights of {type(model).__name__} are on the device meta, without values; load "
            "them first"
        )


def _is_packed(module: nn.Module) -> bool:
    saved = module._buffers.keys() - module._non_persistent_buffers_set
    own = (*module._parameters.values(), *(module._buffers[name] for name in saved))
    if not any(t is not None and t.dtype in _PACKED and t.dim() > 0 for t in own):
        return False
    return hasattr(module, "in_features") and hasattr(module, "out_features")


def check_called(model: nn.Module, uncalled: Iterable[str]) -> None:
    """Raise TypeError where a replaced forward does without the linear layers of its module.

    Args:
        model: the whole model.
        uncalled: dotted names of the linear layers that a forward does not call.
    """
    uncalled = list(uncalled)
    inner = replaced_forwards(model) if uncalled else {}
    for layer in uncalled:
        around = [name for name in inner if name and layer.startswith(f"{name}.")]
        if around:
            name = max(around, key=len)
            raise TypeError(
                f"the forward of {name} was replaced by {inner[name]}, which does not call "
                f"{layer}: masks would not reach what it computes. Fused kernels do that; load the "
                "model without them (use_kernels=False)"
            )
