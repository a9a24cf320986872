"""Models that cannot be read: quantised layers, weights without values, replaced forwards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from hf_td.modules.layouts import linear_layout, stacks_of

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32)


def replaced_forwards(model: nn.Module) -> dict[str, str]:
    """Return the modules whose forward was replaced on the instance: dotted name to replacement.

    Linear layers and experts are excluded: patching checks each of them by itself.
    """
    forwards = {
        name: forward
        for name, module in model.named_modules()
        if (forward := module.__dict__.get("forward"))  # the cheap test first: few modules pass
        and linear_layout(module) is None
        and not stacks_of(module)
    }
    return {n: getattr(f, "__qualname__", repr(type(f))) for n, f in forwards.items()}


def check_not_quantised(model: nn.Module) -> None:
    """Raise TypeError if linear layers are quantised, that is, have integer weights."""
    quantised = {name: m for name, m in model.named_modules() if _is_quantised(m)}
    if quantised:
        name, layer = next(iter(quantised.items()))
        kind = type(layer)
        raise TypeError(
            f"{len(quantised)} layers of {type(model).__name__} are quantised, such as {name}, a "
            f"{kind.__module__}.{kind.__qualname__}. Quantised weights can be neither ranked nor "
            "set to zero. Load the model without quantization_config; quantise the pruned model."
        )


def _is_quantised(module: nn.Module) -> bool:
    own = {**module._parameters, **module._buffers}
    integers = (n for n, t in own.items() if t is not None and t.dtype in _INTEGERS and t.dim())
    # Buffers that are not saved hold no weights: a targeted layer has one of integers.
    if all(name in module._non_persistent_buffers_set for name in integers):
        return False  # before the look-ups of missing attributes, which are slow
    return hasattr(module, "in_features") and hasattr(module, "out_features")


def check_has_values(model: nn.Module) -> None:
    """Raise ValueError if the weights of a model are on the meta device."""
    first = next(model.parameters(), None)
    if first is not None and first.is_meta:
        raise ValueError(
            f"the weights of {type(model).__name__} are on the device meta and have no values. "
            "Reading needs a loaded model. Load the weights first."
        )


def check_called(model: nn.Module, uncalled: Sequence[str]) -> None:
    """Raise TypeError if a replaced forward does not call the linear layers of its module.

    Args:
        model: the whole model.
        uncalled: dotted names of the linear layers that were not called.
    """
    replaced = replaced_forwards(model) if uncalled else {}
    for layer in uncalled:
        around = [name for name in replaced if name and layer.startswith(f"{name}.")]
        if around:
            name = max(around, key=len)
            raise TypeError(
                f"the forward of {name} was replaced by {replaced[name]}, which does not call "
                f"{layer}. Dropout would not reach a fused kernel. Load the model with "
                "use_kernels=False."
            )
