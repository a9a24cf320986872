"""The part of a patched model that processes exchange while they train together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, distributed, nn

# Buffers that DistributedDataParallel excludes, as
# `DistributedDataParallel._set_params_and_buffers_to_ignore_for_model` names it in a model.
_LEFT_ALONE = "_ddp_params_and_buffers_to_ignore"


def sum_over_processes(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the sums of tensors over all processes that train together, in one collective."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return list(tensors)
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def exclude_from_ddp(model: nn.Module, names: Iterable[str]) -> None:
    """Exclude these buffers from DistributedDataParallel's broadcast before every forward.

    Cut-offs are equal in all processes already; each process measures activations of its own.

    Args:
        model: what will be wrapped.
        names: dotted names of buffers in it.
    """
    setattr(model, _LEFT_ALONE, [*getattr(model, _LEFT_ALONE, ()), *names])


def include_in_ddp(model: nn.Module, names: Iterable[str]) -> None:
    """Take names out that `exclude_from_ddp` put in."""
    own = set(names)
    left = [name for name in getattr(model, _LEFT_ALONE, ()) if name not in own]
    model.__dict__.pop(_LEFT_ALONE, None)
    if left:
        setattr(model, _LEFT_ALONE, left)
