"""Masked weights and their gradients, by the kernel for their device and type."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_td import functional
from hf_td.functional import Cut, Rule
from hf_td.kernels import cpu, cuda


class _Masked(torch.autograd.Function):
    """`functional.masked` with the cast of autocast.

    The backward recomputes the mask from the weight and the cut. So nothing else of the size of a
    weight is saved.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, cut: Cut, rule: Rule, dtype: torch.dtype, in_place: bool
    ) -> Tensor:
        ctx.save_for_backward(weight, *cut)
        ctx.rule, ctx.in_place = rule, in_place
        return _write(weight, weight, cut, rule, torch.empty_like(weight, dtype=dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, *numbers = ctx.saved_tensors
        (grad,), cut, rule = grads, Cut(*numbers), ctx.rule
        if torch.is_grad_enabled():  # by create_graph=True, for a second derivative
            dropped = functional.is_dropped(weight, cut, rule)
            return grad.to(weight.dtype).masked_fill(dropped, 0), None, None, None, None
        in_place = ctx.in_place and grad.dtype == weight.dtype and 0 not in grad.stride()
        out = grad if in_place else torch.empty_like(weight)
        return _write(grad, weight, cut, rule, out), None, None, None, None


def masked(weight: Tensor, cut: Cut, rule: Rule, *, own_gradient: bool = False) -> Tensor:
    """Compute `functional.masked`, under autocast in the type of a matrix product.

    Args:
        weight: any shape, floating point.
        cut: the numbers of the update.
        rule: the rule of the weight.
        own_gradient: True if nothing else reads the gradient of the result, as with the gradient of
            a matrix product. It is then masked in place.
    """
    if torch.compiler.is_compiling():  # the compiler fuses the plain function itself
        return functional.masked(weight, cut, rule)
    return _Masked.apply(weight, cut, rule, _compute_type(weight), own_gradient)


def _compute_type(weight: Tensor) -> torch.dtype:
    """Return the type that a matrix product with a weight computes in, which autocast may set."""
    kind = weight.device.type
    if weight.dtype != torch.float32 or not torch.is_autocast_enabled(kind):
        return weight.dtype
    return torch.get_autocast_dtype(kind)


def _write(source: Tensor, weight: Tensor, cut: Cut, rule: Rule, out: Tensor) -> Tensor:
    """Write a weight or its gradient to `out`, with zeros at dropped entries, and return `out`."""
    if cpu.can_compute(weight, rule):
        cpu.write_masked(source, weight, cut, rule, out)
    elif cuda.can_mask(source, weight, rule, out):
        cuda.write_masked(source, weight, cut, rule, out)
    else:
        out.copy_(source).masked_fill_(functional.is_dropped(weight, cut, rule), 0)
    return out
