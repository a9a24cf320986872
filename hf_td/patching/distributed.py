"""What processes that train together exchange of a patched model, and what they do not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, distributed, nn

# What DistributedDataParallel leaves alone, as
# `DistributedDataParallel._set_params_and_buffers_to_ignore_for_model` names it in a model.
_LEFT_ALONE = "_ddp_params_and_buffers_to_ignore"


def sum_over_processes(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The sums of tensors over all processes that train together, in one message."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return list(tensors)
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def keep_to_each(model: nn.Module, names: Iterable[str]) -> None:
    """Let DistributedDataParallel not send these buffers to all processes in every forward.

    Masks are as large as the weights and the same everywhere; sums are of each process.

    Args:
        model: what will be wrapped.
        names: dotted names of buffers in it.
    """
    setattr(model, _LEFT_ALONE, [*getattr(model, _LEFT_ALONE, ()), *names])


def keep_to_each_no_more(model: nn.Module, names: Iterable[str]) -> None:
    """Take names out that `keep_to_each` put in."""
    own = set(names)
    left = [name for name in getattr(model, _LEFT_ALONE, ()) if name not in own]
    model.__dict__.pop(_LEFT_ALONE, None)
    if left:
        setattr(model, _LEFT_ALONE, left)
