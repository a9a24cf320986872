"""Chooses by device and type what computes a mask and its product with a weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hf_td import functional
from hf_td.kernels import cpu, cuda
from hf_td.kernels.ranked import Ranked


def keep_masks(ranked: Sequence[Ranked], fraction: float, drop_rate: float) -> list[Tensor]:
    """The masks of an update, of all weights together.

    They are those of `functional`: on the CPU bit for bit, on CUDA with draws of another generator
    where the drop rate is below 1.

    Args:
        ranked: weights, also of several devices.
        fraction: the targeting (gamma), in [0, 1).
        drop_rate: alpha, the probability that a candidate is dropped, in [0, 1].

    Returns:
        For each weight a boolean tensor of its shape: False where an entry is dropped.
    """
    keeps: dict[int, Tensor] = {}
    for masks_of, supports in _IMPLEMENTATIONS:
        taken = [i for i, one in enumerate(ranked) if i not in keeps and supports(one)]
        found = masks_of([ranked[i] for i in taken], fraction, drop_rate) if taken else []
        keeps.update(zip(taken, found, strict=True))
    return [keeps[i] for i in range(len(ranked))]


def _plain(ranked: Sequence[Ranked], fraction: float, drop_rate: float) -> list[Tensor]:
    return [one.keep_mask(fraction, drop_rate) for one in ranked]


# The first that supports a weight takes it.
_IMPLEMENTATIONS: tuple[tuple[Callable[..., list[Tensor]], Callable[[Ranked], bool]], ...] = (
    (cuda.keep_masks, cuda.supports),
    (cpu.keep_masks, cpu.supports),
    (_plain, lambda _: True),
)


class _Masked(torch.autograd.Function):
    """As `functional.masked`, with the cast of autocast in the same pass."""

    @staticmethod
    def forward(ctx, weight: Tensor, keep: Tensor, own_gradient: bool) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.dtype, ctx.own_gradient = weight.dtype, own_gradient
        return _product(weight, keep, _compute_type(weight))

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return _product(grads[0], keep, ctx.dtype, in_place=ctx.own_gradient), None, None


def masked(weight: Tensor, keep: Tensor, *, own_gradient: bool = False) -> Tensor:
    """As `functional.masked`; under autocast in the type that a matrix product computes in.

    Args:
        weight: any shape, floating point.
        keep: from `keep_masks` or `functional.keep_mask`, broadcastable to `weight`.
        own_gradient: whether the gradient of the result will be read by nobody else, as that of a
            matrix product, its only use: it is then masked where it lies.
    """
    if torch.compiler.is_compiling():  # the compiler fuses what is plain
        return functional.masked(weight, keep)
    return _Masked.apply(weight, keep, own_gradient)


def clear(tensor: Tensor, chosen: Tensor) -> None:
    """Set entries to zero, in place.

    Args:
        tensor: any shape, floating point; no gradient is taken of this.
        chosen: boolean, broadcastable to `tensor`.
    """
    if cpu.multiplies(tensor, chosen):
        cpu.multiply(tensor, ~chosen, tensor)
    else:
        tensor.masked_fill_(chosen, 0)


def _compute_type(weight: Tensor) -> torch.dtype:
    device = weight.device.type
    casts = weight.dtype == torch.float32 and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if casts else weight.dtype


def _product(tensor: Tensor, keep: Tensor, dtype: torch.dtype, in_place: bool = False) -> Tensor:
    if torch.is_grad_enabled():  # a gradient of the gradient is wanted
        return (tensor * keep).to(dtype)
    in_place &= tensor.dtype == dtype
    out = tensor if in_place else torch.empty_like(tensor, dtype=dtype)
    if cpu.multiplies(tensor, keep):
        return cpu.multiply(tensor, keep, out)
    # One kernel on CUDA, which reads both types and writes the third.
    return torch.mul(tensor, keep, out=out)
