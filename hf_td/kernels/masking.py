"""Masked weights and their gradients; chooses by device and type what computes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_td import functional
from hf_td.functional import Cut, Rule
from hf_td.kernels import cpu, cuda


class _Masked(torch.autograd.Function):
    """`functional.masked` with the cast of autocast.

    It keeps the weight and the cut-offs, and nothing else of the size of a weight: the mask of the
    gradient is computed anew from these.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, cut: Cut, rule: Rule, dtype: torch.dtype, in_place: bool
    ) -> Tensor:
        ctx.save_for_backward(weight, *cut)
        ctx.rule, ctx.in_place = rule, in_place
        return _written(weight, weight, cut, rule, torch.empty_like(weight, dtype=dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, *numbers = ctx.saved_tensors
        (grad,), cut, rule = grads, Cut(*numbers), ctx.rule
        if torch.is_grad_enabled():  # a gradient of the gradient is wanted
            dropped = functional.is_dropped(weight, cut, rule)
            return grad.to(weight.dtype).masked_fill(dropped, 0), None, None, None, None
        in_place = ctx.in_place and grad.dtype == weight.dtype and 0 not in grad.stride()
        out = grad if in_place else torch.empty_like(weight)
        return _written(grad, weight, cut, rule, out), None, None, None, None


def masked(weight: Tensor, cut: Cut, rule: Rule, *, own_gradient: bool = False) -> Tensor:
    """Compute `functional.masked`; under autocast in the type that a matrix product computes in.

    Args:
        weight: any shape, floating point.
        cut: of the update.
        rule: of the weight.
        own_gradient: nobody else reads the gradient of the result, as that of a matrix product; it
            is masked where it lies.
    """
    if torch.compiler.is_compiling():  # the compiler fuses what is plain
        return functional.masked(weight, cut, rule)
    return _Masked.apply(weight, cut, rule, _compute_type(weight), own_gradient)


def _compute_type(weight: Tensor) -> torch.dtype:
    """Return the type that a matrix product with a weight computes in; autocast may say which."""
    kind = weight.device.type
    if weight.dtype != torch.float32 or not torch.is_autocast_enabled(kind):
        return weight.dtype
    return torch.get_autocast_dtype(kind)


def _written(source: Tensor, weight: Tensor, cut: Cut, rule: Rule, out: Tensor) -> Tensor:
    """Write a weight or its gradient without what an update drops to `out`, and return it."""
    if cpu.ranks(weight, rule):
        cpu.write_masked(source, weight, cut, rule, out)
    elif cuda.masks(source, weight, rule, out):
        cuda.write_masked(source, weight, cut, rule, out)
    else:
        out.copy_(source).masked_fill_(functional.is_dropped(weight, cut, rule), 0)
    return out
