"""Models that cannot be read: quantised layers, weights without values, replaced forwards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

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
    """Raise TypeError if linear layers are quantised, that is, have packed weights."""
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
    packed = (name for name, tensor in own.items() if tensor is not None and is_packed(tensor))
    # Buffers that are not saved hold no weights: a targeted layer has one of integers.
    if all(name in module._non_persistent_buffers_set for name in packed):
        return False  # before the look-ups of missing attributes, which are slow
    return hasattr(module, "in_features") and hasattr(module, "out_features")


def is_packed(tensor: Tensor) -> bool:
    """Return True for a tensor of integers, and for one that wraps others, as torchao's do.

    A shard, which wraps others too, is none.
    """
    if tensor.dtype in _INTEGERS:
        return bool(tensor.dim())
    return is_traceable_wrapper_subclass(tensor) and not isinstance(tensor, DTensor)


def check_has_values(model: nn.Module) -> None:
    """Raise ValueError if the weights of a model are on the meta device."""
    first = next(model.parameters(), None)
    if first is not None and first.is_meta:
        raise ValueError(
            f"the weights of {type(model).__name__} are on the device meta and have no values. "
            "Reading needs a loaded model. Load the weights first. Under FSDP load them in every "
            "process: set cpu_ram_efficient_loading to false."
        )


def check_not_fully_sharded(model: nn.Module) -> None:
    """Raise TypeError if FSDP2, FSDP 1 or a tensor-parallel plan has sharded the model."""
    sharded = next((name for name, p in model.named_parameters() if isinstance(p, DTensor)), None)
    if any(isinstance(module, FSDPModule) for module in model.modules()):
        raise TypeError(
            f"{type(model).__name__} is sharded by FSDP2, and no process has its whole weights. "
            "Patch a model before fully_shard, and unpatch it before too. To prune or export it, "
            "call hf_td.training.save_gathered(model, folder) in every process, and load that "
            "folder by from_pretrained in one process"
        )
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        raise TypeError(
            f"{type(model).__name__} is sharded by FSDP 1, which flattens its weights, so none can "
            "be ranked. Patch the model, and shard it by fully_shard (FSDP2)"
        )
    if sharded is not None:
        raise TypeError(
            f"{sharded} of {type(model).__name__} is sharded, as by a tensor-parallel plan, and no "
            "process has the whole weight. Load the model without tp_plan; patch it before "
            "fully_shard"
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
