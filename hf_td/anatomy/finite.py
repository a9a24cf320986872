"""Refuses weights that are not finite.

Nothing can be ranked by them: beside an infinity every other weight counts as nothing, and NaN is
below no cut-off. Outputs cannot be compared either.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def check_finite(model: nn.Module) -> None:
    """Raise ValueError if a parameter has values that are not finite; the first one is named.

    Each parameter is read once. Shards, packed weights and those on the device meta are left out.
    """
    check_tensors(dict(model.named_parameters()), type(model).__name__)


@torch.no_grad()
def check_tensors(tensors: Mapping[str, Tensor], place: str) -> None:
    """Raise ValueError if a tensor has values that are not finite; the first one is named.

    A sum is finite only if all its terms are, and is far cheaper than a mask. One that is not can
    have overflowed, so then the values are looked at.

    Args:
        tensors: by name.
        place: where they come from, for the message.
    """
    wide = {name: _wide(tensor) for name, tensor in tensors.items() if _is_plain(tensor)}
    sums = {name: tensor.sum() for name, tensor in wide.items()}
    for name, tensor in wide.items():
        if sums[name].isfinite() or tensor.isfinite().all():
            continue
        raise ValueError(
            f"{name} of {place} has {int((~tensor.isfinite()).sum())} values of {tensor.numel()} "
            "that are not finite (nan or inf). Finite weights were expected: others can be neither "
            "ranked nor compared. Load an earlier checkpoint, or train with a lower learning rate"
        )


def _is_plain(tensor: Tensor) -> bool:
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.is_floating_point()
    return plain and not tensor.is_meta


def _wide(tensor: Tensor) -> Tensor:
    """Return a tensor in a type that can be summed: those of 8 bits cannot."""
    return tensor.detach().float() if tensor.itemsize == 1 else tensor.detach()
