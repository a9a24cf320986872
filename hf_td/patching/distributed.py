"""Distributed training of a patched model: sums over processes, buffers outside of DDP, shards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import Shard

from hf_td.modules.layouts import linear_layout

# The attribute of a model in which DistributedDataParallel looks for names to ignore; see
# `DistributedDataParallel._set_params_and_buffers_to_ignore_for_model`.
_IGNORED = "_ddp_params_and_buffers_to_ignore"


def process_number() -> int:
    """Return the number of this process, from 0; 0 without a process group."""
    return distributed.get_rank() if _are_several() else 0


def sum_over_processes(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the sums of tensors over all processes, in one collective.

    Without a process group the tensors are returned as they are.

    Args:
        tensors: of one device, in the same order in every process.
    """
    if not _are_several():
        return list(tensors)
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def _are_several() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def exclude_from_ddp(model: nn.Module, names: Iterable[str]) -> None:
    """Exclude buffers from DistributedDataParallel's broadcast before every forward.

    Every process computes equal cut-offs, and sums its own measured activations.

    Args:
        model: the model that DistributedDataParallel will wrap.
        names: dotted names of buffers in the model.
    """
    setattr(model, _IGNORED, [*getattr(model, _IGNORED, ()), *names])


def include_in_ddp(model: nn.Module, names: Iterable[str]) -> None:
    """Undo `exclude_from_ddp` for these names."""
    included = set(names)
    rest = [name for name in getattr(model, _IGNORED, ()) if name not in included]
    model.__dict__.pop(_IGNORED, None)
    if rest:
        setattr(model, _IGNORED, rest)


def shard_by_rows(model: nn.Module) -> Callable[[nn.Parameter], Shard | None]:
    """Return the `shard_placement_fn` of `fully_shard` that keeps each output's weights together.

    FSDP2 shards along the first dimension, which is right for `nn.Linear`. The weight of GPT-2's
    `Conv1D` is `(in, out)`, so it is sharded along the second one. The number of outputs has to be
    a multiple of the number of processes.

    Args:
        model: the patched model that will be sharded.
    """
    layouts = ((layer, linear_layout(layer)) for layer in model.modules())
    transposed = {
        id(layer.weight)
        for layer, layout in layouts
        if layout is not None and layout.fan_in_dim == 0 and isinstance(layer.weight, nn.Parameter)
    }
    return lambda parameter: Shard(1) if id(parameter) in transposed else None
