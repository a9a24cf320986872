"""Masked weights and their gradients, by the kernel for their device and type."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hf_td import functional
from hf_td.functional import Cut, Rule
from hf_td.kernels import cpu_masking, cuda


class _Masked(torch.autograd.Function):
    """`functional.masked` with the cast of autocast."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, cut: Cut, rule: Rule, dtype: torch.dtype) -> Tensor:
        mask = _Mask(weight, _kept(weight, cut, rule), rule, cut)
        mask.save(ctx)
        return mask.of_weight(dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        mask, *_ = _Mask.saved(ctx)
        return mask.of_gradient(grads[0], own=False), None, None, None


class _MaskedLinear(torch.autograd.Function):
    """A linear layer with a masked weight, which the backward computes anew.

    Autograd would save the masked weight of every layer from the forward to the backward: as much
    memory as the weights themselves, and under FSDP as much as the weights of all processes.
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, cut: Cut, rule: Rule
    ) -> Tensor:
        mask = _Mask(weight, _kept(weight, cut, rule), rule, cut)
        dtype = _compute_type(weight)
        ctx.type_of_input, ctx.compute_type = input.dtype, dtype
        input = input.to(dtype) if _is_cast(weight) else input  # as autocast does
        mask.save(ctx, input if ctx.needs_input_grad[1] else None)
        output = functional.linear(input, mask.of_weight(dtype), bias, rule.fan_in_dim)
        # A view of what was made here could not be modified in place, as `ReLU(inplace=True)` does.
        return torch.ops.aten._unsafe_view(output, output.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        mask, input = _Mask.saved(ctx)
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        for_input = for_weight = for_bias = None
        fan_in_dim = mask.rule.fan_in_dim
        if ctx.needs_input_grad[0]:
            masked = mask.of_weight(ctx.compute_type)
            for_input = grad @ (masked if fan_in_dim else masked.t())
            for_input = for_input.view(*grads[0].shape[:-1], for_input.shape[-1])
            for_input = for_input.to(ctx.type_of_input)
        if ctx.needs_input_grad[1]:
            rows = input.reshape(-1, input.shape[-1])
            product = grad.t() @ rows if fan_in_dim else rows.t() @ grad
            for_weight = mask.of_gradient(product, own=True)
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


class _Mask(NamedTuple):
    """The mask of one weight in one forward and its backward.

    Attributes:
        weight: the weight.
        kept: from `_kept`.
        rule: the rule of the weight.
        cut: the numbers of the update.
    """

    weight: Tensor
    kept: Tensor | None
    rule: Rule
    cut: Cut

    def save(self, ctx: Any, *others: Tensor | None) -> None:
        """Save the mask and other tensors for the backward."""
        ctx.save_for_backward(self.weight, self.kept, *self.cut, *others)
        ctx.rule = self.rule

    @staticmethod
    def saved(ctx: Any) -> tuple[Any, ...]:
        """Return the mask that was saved, then the others.

        Saved tensors can be read only once where activations are checkpointed.
        """
        weight, kept, *rest = ctx.saved_tensors
        size = len(Cut._fields)
        return _Mask(weight, kept, ctx.rule, Cut(*rest[:size])), *rest[size:]

    def of_weight(self, dtype: torch.dtype) -> Tensor:
        """Return the masked weight in a type."""
        if torch.is_grad_enabled():  # by create_graph=True, for a second derivative
            return functional.masked(self.weight, self.cut, self.rule).to(dtype)
        return self.write(self.weight, torch.empty_like(self.weight, dtype=dtype))

    def of_gradient(self, grad: Tensor, *, own: bool) -> Tensor:
        """Return the gradient in the type of the weight, with zeros at dropped entries.

        Args:
            grad: of the shape of the weight.
            own: True if nothing else reads `grad`, which can then be masked in place.
        """
        weight = self.weight
        if torch.is_grad_enabled():
            dropped = functional.is_dropped(weight, self.cut, self.rule)
            return grad.to(weight.dtype).masked_fill(dropped, 0)
        in_place = own and grad.dtype == weight.dtype and grad.is_contiguous()
        return self.write(grad, grad if in_place else torch.empty_like(weight))

    def write(self, source: Tensor, out: Tensor) -> Tensor:
        """Write the weight or its gradient to `out`, with zeros at dropped entries; return `out`.

        Bits are kept or cleared, so a dropped entry becomes zero even if it is not finite.
        """
        kept = self.kept
        if kept is None and cuda.can_mask(source, self.weight, self.rule, out):
            cuda.write_masked(source, self.weight, self.cut, self.rule, out)
            return out
        if kept is None:
            kept = _plainly_kept(self.weight, self.cut, self.rule)
        cpu_masking.write_kept(source, kept, out)
        return out


def _kept(weight: Tensor, cut: Cut, rule: Rule) -> Tensor | None:
    """Return -1 where an update keeps an entry and 0 elsewhere, int8, broadcasts to the weight.

    The backward needs it twice, and to save one byte for an entry is faster than to compute it
    again. On CUDA, where the kernel computes it while it waits for the memory, return None.
    """
    if cuda.can_mask(weight, weight, rule, weight):
        return None
    if cpu_masking.can_mask(weight, rule):
        return cpu_masking.kept(weight, cut, rule)
    return _plainly_kept(weight, cut, rule)


def _plainly_kept(weight: Tensor, cut: Cut, rule: Rule) -> Tensor:
    return functional.is_dropped(weight, cut, rule).to(torch.int8).sub_(1)


def _compute_type(weight: Tensor) -> torch.dtype:
    """Return the type that a matrix product with a weight computes in, which autocast may set."""
    return torch.get_autocast_dtype(weight.device.type) if _is_cast(weight) else weight.dtype


def _is_cast(weight: Tensor) -> bool:
    """Return True where autocast casts a matrix product: of all types but float64."""
    return weight.dtype != torch.float64 and torch.is_autocast_enabled(weight.device.type)
