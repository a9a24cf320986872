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
    def forward(ctx: Any, weight: Tensor, cut: Cut, rule: Rule, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(weight, *cut)
        ctx.rule = rule
        return _write(weight, weight, cut, rule, torch.empty_like(weight, dtype=dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, *numbers = ctx.saved_tensors
        (grad,), cut = grads, Cut(*numbers)
        return _masked_gradient(grad, weight, cut, ctx.rule, own=False), None, None, None


class _MaskedLinear(torch.autograd.Function):
    """A linear layer with a masked weight, which the backward computes anew.

    Autograd would save the masked weight of every layer from the forward to the backward: as much
    memory as the weights themselves, and under FSDP as much as the weights of all processes.
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, cut: Cut, rule: Rule
    ) -> Tensor:
        dtype = _compute_type(weight)
        masked = _write(weight, weight, cut, rule, torch.empty_like(weight, dtype=dtype))
        ctx.type_of_input, ctx.rule = input.dtype, rule
        input = input if dtype == weight.dtype else input.to(dtype)  # as autocast does
        ctx.save_for_backward(input, weight, *cut)
        return functional.linear(input, masked, bias, rule.fan_in_dim)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, *numbers = ctx.saved_tensors
        cut, rule = Cut(*numbers), ctx.rule
        grad, rows = (one.reshape(-1, one.shape[-1]) for one in (grads[0], input))
        for_input = for_weight = for_bias = None
        if ctx.needs_input_grad[0]:
            masked = _masked_again(weight, cut, rule, input.dtype)
            for_input = grad @ (masked if rule.fan_in_dim else masked.t())
            for_input = for_input.view(input.shape).to(ctx.type_of_input)
        if ctx.needs_input_grad[1]:
            product = grad.t() @ rows if rule.fan_in_dim else rows.t() @ grad
            for_weight = _masked_gradient(product, weight, cut, rule, own=True)
        if ctx.needs_input_grad[2]:
            for_bias = grad.sum(0)
        return for_input, for_weight, for_bias, None, None


def masked(weight: Tensor, cut: Cut, rule: Rule) -> Tensor:
    """Compute `functional.masked`, under autocast in the type of a matrix product.

    Args:
        weight: any shape, floating point.
        cut: the numbers of the update.
        rule: the rule of the weight.
    """
    if torch.compiler.is_compiling():  # the compiler fuses the plain function itself
        return functional.masked(weight, cut, rule)
    return _Masked.apply(weight, cut, rule, _compute_type(weight))


def masked_linear(
    input: Tensor, weight: Tensor, bias: Tensor | None, cut: Cut, rule: Rule
) -> Tensor:
    """Compute `functional.linear` with the masked weight, of which no copy is saved.

    Args:
        input: `(..., fan_in)`.
        weight: `(out, in)`, or `(in, out)` if `rule.fan_in_dim` is 0.
        bias: `(out,)`, or None.
        cut: the numbers of the update.
        rule: the rule of the weight.
    """
    if torch.compiler.is_compiling():  # the compiler decides itself what it recomputes
        weight = functional.masked(weight, cut, rule)
        return functional.linear(input, weight, bias, rule.fan_in_dim)
    return _MaskedLinear.apply(input, weight, bias, cut, rule)


def _masked_again(weight: Tensor, cut: Cut, rule: Rule, dtype: torch.dtype) -> Tensor:
    if torch.is_grad_enabled():  # by create_graph=True, for a second derivative
        return functional.masked(weight, cut, rule).to(dtype)
    return _write(weight, weight, cut, rule, torch.empty_like(weight, dtype=dtype))


def _masked_gradient(grad: Tensor, weight: Tensor, cut: Cut, rule: Rule, *, own: bool) -> Tensor:
    """Return the gradient in the type of the weight, with zeros at dropped entries.

    Args:
        grad: of the shape of the weight.
        weight: the weight.
        cut: the numbers of the update.
        rule: the rule of the weight.
        own: True if nothing else reads `grad`, which can then be masked in place.
    """
    if torch.is_grad_enabled():
        dropped = functional.is_dropped(weight, cut, rule)
        return grad.to(weight.dtype).masked_fill(dropped, 0)
    in_place = own and grad.dtype == weight.dtype and grad.is_contiguous()
    return _write(grad, weight, cut, rule, grad if in_place else torch.empty_like(weight))


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
