"""Products of weights and gradients with masks; chooses by device and type what computes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_td import functional
from hf_td.kernels import cpu, cuda


class _Masked(torch.autograd.Function):
    """As `functional.masked` of several weights, in one node, with the cast of autocast."""

    @staticmethod
    def forward(ctx, options: _Options, ready: Any, *weights: Tensor) -> tuple[Tensor, ...]:
        # Of the masked weights nothing is kept here: they know this node, and would never be freed.
        ctx.options, ctx.types = options, [weight.dtype for weight in weights]
        ctx.set_materialize_grads(False)
        masked = _completed(ready, weights, options)
        frozen = [m for m, w in zip(masked, weights, strict=True) if not w.requires_grad]
        ctx.mark_non_differentiable(*frozen)
        return tuple(masked)

    @staticmethod
    def backward(ctx, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        options = ctx.options
        options.on_backward()
        there = [i for i, grad in enumerate(grads) if grad is not None]
        found = _products(
            [grad for grad in grads if grad is not None],
            [options.keeps[i] for i in there],
            [ctx.types[i] for i in there],
            in_place=options.own_gradients,
        )
        by_place = dict(zip(there, found, strict=True))
        return None, None, *(by_place.get(i) for i in range(len(grads)))


@dataclass(frozen=True)
class _Options:
    keeps: Sequence[Tensor]
    dtype: torch.dtype
    own_gradients: bool = False
    on_backward: Callable[[], None] = lambda: None


def _completed(
    ready: Sequence[Tensor | None], weights: Sequence[Tensor], options: _Options
) -> list[Tensor]:
    """Masked weights: those that are ready, and the products of the others."""
    found = {i: masked for i, masked in enumerate(ready) if masked is not None}
    missing = [i for i in range(len(weights)) if i not in found]
    types = [options.dtype] * len(missing)
    made = _products([weights[i] for i in missing], [options.keeps[i] for i in missing], types)
    found.update(zip(missing, made, strict=True))
    return [found[i] for i in range(len(weights))]


def masked(weight: Tensor, keep: Tensor) -> Tensor:
    """As `functional.masked`; under autocast in the type that a matrix product computes in.

    Args:
        weight: any shape, floating point.
        keep: from a `Ranking` or from `functional.keep_mask`, broadcastable to `weight`.
    """
    if torch.compiler.is_compiling():  # the compiler fuses what is plain
        return functional.masked(weight, keep)
    return _Masked.apply(_Options([keep], compute_type(weight)), [None], weight)[0]


def masked_together(
    weights: Sequence[Tensor],
    keeps: Sequence[Tensor],
    ready: Sequence[Tensor | None],
    dtype: torch.dtype,
    on_backward: Callable[[], None],
) -> tuple[Tensor, ...]:
    """As `masked` of several weights, which are one node of the graph.

    A node for each takes as long to hand out as its product, and on a GPU much longer than that
    takes there. It keeps nothing that a backward would free, so that there may be several.

    Args:
        weights: any shapes, floating point, of one device.
        keeps: broadcastable to the weights.
        ready: those masked weights that have been made already, and None for the others.
        dtype: of the results.
        on_backward: called when the gradients of all that was used have come.

    Returns:
        The masked weights. Their gradients must be read by nobody else, as those of matrix products
        are: they are masked where they lie.
    """
    options = _Options(keeps, dtype, own_gradients=True, on_backward=on_backward)
    return _Masked.apply(options, ready, *weights)


def clear(tensor: Tensor, chosen: Tensor) -> None:
    """Set entries to zero, in place.

    Args:
        tensor: any shape, floating point; no gradient is taken of this.
        chosen: boolean, broadcastable to `tensor`.
    """
    if cpu.multiplies(tensor, chosen):
        if chosen.dim() == tensor.dim() and chosen.numel() == chosen.shape[0] == tensor.shape[0]:
            cpu.clear_rows(tensor, chosen.flatten())
        else:
            cpu.multiply(tensor, ~chosen, tensor)
    else:
        tensor.masked_fill_(chosen, 0)


def autocast_type(device: str) -> torch.dtype | None:
    """The type that autocast lets products compute in on a kind of device; None where it is off."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def compute_type(weight: Tensor) -> torch.dtype:
    """The type that a matrix product with a weight computes in, which autocast may say."""
    autocast = autocast_type(weight.device.type)
    return weight.dtype if autocast is None or weight.dtype != torch.float32 else autocast


def _products(
    tensors: Sequence[Tensor],
    keeps: Sequence[Tensor],
    dtypes: Sequence[torch.dtype],
    *,
    in_place: bool = False,
) -> list[Tensor]:
    """Products with masks, in these types; `in_place` where a tensor has that type already."""
    every = list(zip(tensors, keeps, dtypes, strict=True))
    if torch.is_grad_enabled():  # a gradient of the gradient is wanted
        return [(tensor * keep).to(dtype) for tensor, keep, dtype in every]
    outs = [
        tensor if in_place and _is_whole(tensor, dtype) else torch.empty_like(tensor, dtype=dtype)
        for tensor, _, dtype in every
    ]
    at_once = []
    for row in zip(tensors, keeps, outs, strict=True):
        if cuda.multiplies(*row):
            at_once.append(row)
        elif cpu.multiplies(*row[:2]):
            cpu.multiply(*row)
        else:
            torch.mul(row[0], row[1], out=row[2])
    if at_once:
        cuda.products(at_once)
    return outs


def _is_whole(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether a tensor is of a type and has a place for each entry, as that of a sum has not."""
    return tensor.dtype == dtype and 0 not in tensor.stride()
