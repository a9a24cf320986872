"""Layers that drop what targeted dropout chose for the current update.

A layer holds the cut-offs of the update, which are set outside of its forward (see
`hf_td.patching.cutoffs`). In training it computes its masked weight in its own forward, from the
weight that is there then, and forgets it. Every micro-batch, every recomputation of a checkpointed
activation and every call of a shared layer sees the same mask. In eval mode a layer is its stock
class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from hf_td import functional, kernels
from hf_td.functional import Cut, Rule
from hf_td.modules.classes import class_of
from hf_td.modules.layouts import Stack, linear_layout, stacks_of
from hf_td.modules.routing import (
    MaskedRouterMixin,
    Router,
    mark_pruned,
    pruned_experts,
    routed_squares,
    stock_class,
)
from hf_td.ranking.activations import sampled_squares


class TargetedMixin:
    """The cut-offs of an update, in a class that a module changes to and keeps its identity.

    Attributes:
        cutoff: as in `functional.Cut`; a buffer that is not saved, like the other tensors here.
        draw: as in `functional.Cut`.
        scale: as in `functional.Cut`; None where importance does not need it.
        rule: what the scores are in every update.
        input_squares: sum of the squared inputs of the update that is measured, `(fan_in,)`; None
            where importance does not need them.
        input_rows: number of rows in that sum.
        measuring: True in the updates that are measured.
    """

    weight: nn.Parameter
    cutoff: Tensor
    draw: Tensor
    scale: Tensor | None
    rule: Rule
    input_squares: Tensor | None
    input_rows: Tensor
    measuring: bool = False

    def masked_weight(self, *, own_gradient: bool = False) -> Tensor:
        """Return the weight that this update uses; see `kernels.masked`."""
        cut = Cut(self.cutoff, self.draw, self.scale)
        return kernels.masked(self.weight, cut, self.rule, own_gradient=own_gradient)

    def measure(self, *inputs: Any) -> None:
        """Add the first input, `(..., fan_in)`, to what was measured in this update."""
        self.add_squares(*sampled_squares(inputs[0]))

    def add_squares(self, squares: Tensor, rows: int) -> None:
        """Add a sum of squares and the number of its rows to what was measured."""
        if self.input_squares is not None:
            self.input_squares += squares
            self.input_rows += rows

    def measure_if_due(self, *inputs: Any) -> None:
        """Measure a training input in the updates that are measured.

        A compiled forward measures in every update: to look at a switch, or hooks that come and go,
        would compile it anew. What is added between measured updates is set to zero before the
        next one.
        """
        due = torch.compiler.is_compiling() or self.measuring
        if due and self.input_squares is not None:
            with torch.no_grad():
                self.measure(*inputs)


class TargetedLinear(TargetedMixin, nn.Linear):
    """`nn.Linear` under targeted dropout; `weight` is `(out, in)`."""

    def forward(self, input: Tensor) -> Tensor:
        """`(..., in)` to `(..., out)`."""
        if not self.training:
            return super().forward(input)
        self.measure_if_due(input)
        return F.linear(input, self.masked_weight(own_gradient=True), self.bias)


class TargetedConv1D(TargetedMixin, Conv1D):
    """GPT-2's `Conv1D` under targeted dropout; `weight` is `(in, out)`."""

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in)` to `(..., out)`."""
        if not self.training:
            return super().forward(x)
        self.measure_if_due(x)
        flat = x.reshape(-1, x.shape[-1])
        weight = self.masked_weight(own_gradient=True)
        return torch.addmm(self.bias, flat, weight).view(*x.shape[:-1], self.nf)


class ShadowedMixin(TargetedMixin):
    """For subclasses of `nn.Linear` with a forward of their own, which reads `self.weight`.

    While that forward runs in training, the masked weight shadows the parameter.
    """

    training: bool

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Compute the stock forward with the weight of this update."""
        parent: Any = super()
        if not self.training:
            return parent.forward(*args, **kwargs)
        self.measure_if_due(*args, *kwargs.values())
        with _shadowed(self, {"weight": self.masked_weight()}):
            return parent.forward(*args, **kwargs)


class TargetedExpertsMixin:
    """For modules of experts, whose forwards read 3-D parameters.

    As in `ShadowedMixin`, masked weights shadow those parameters that are targeted.
    """

    training: bool

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Compute the stock forward with the weights of this update."""
        parent: Any = super()
        if not self.training:
            return parent.forward(*args, **kwargs)
        masked = {
            stack.name: kernels.masked(stack.weight, cut_of(stack), rule_of(stack))
            for stack in _targeted_stacks(self)
        }
        with _shadowed(self, masked):
            return parent.forward(*args, **kwargs)


class TargetedRouterMixin(TargetedMixin, MaskedRouterMixin):
    """For routers, which do not choose the experts that this update drops.

    An expert is dropped where its cut-off, one of `(experts,)`, is infinite. Measured are the
    weights that the router gives without dropping. Otherwise a dropped expert would seem
    unimportant and would be dropped again.
    """

    training: bool

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the stock forward without the experts that are dropped or pruned."""
        gone = pruned_experts(self)
        if not self.training:
            return self.route(gone, *args, **kwargs)
        self.measure_if_due(*args, *kwargs.values())
        return self.route(gone | (self.cutoff > 0), *args, **kwargs)

    def measure(self, *inputs: Any) -> None:
        """Add the squared weights that the router gives to what was measured in this update."""
        gone = pruned_experts(self)
        self.add_squares(*routed_squares(self.route(gone, *inputs), len(gone)))


def _targeted_stacks(module: Any) -> list[Stack]:
    return [stack for stack in stacks_of(module) if _own(stack, "cutoff") in module._buffers]


@contextmanager
def _shadowed(module: Any, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Let a module read these tensors where it has parameters of the same names."""
    module.__dict__.update(tensors)
    try:
        yield
    finally:
        for name in tensors:
            del module.__dict__[name]


# Stock class to targeted class. Another layout is another row here and in modules/layouts.py. For
# subclasses of nn.Linear, experts and routers a class is made when the first is met.
TARGETED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: TargetedLinear,
    Conv1D: TargetedConv1D,
}


def _targeted_class(layer: Any) -> type[nn.Module]:
    """Return the targeted class of a layer, or of the module that it lies in."""
    stock = stock_class(_module_of(layer))
    mixin: Any = ShadowedMixin
    if isinstance(layer, Router):
        mixin = TargetedRouterMixin
    elif isinstance(layer, Stack):
        mixin = TargetedExpertsMixin
    return TARGETED.get(stock) or class_of(mixin, stock, "Targeted")


def _module_of(layer: Any) -> Any:
    return layer.module if isinstance(layer, (Stack, Router)) else layer


def _own(layer: Any, name: str) -> str:
    """Return the name in its module of what belongs to a layer; a module has several stacks."""
    return f"{layer.name}_{name}" if isinstance(layer, Stack) else name


def check_targetable(name: str, layer: Any) -> None:
    """Raise unless `target` can be applied to the layer.

    Args:
        name: dotted name of the layer, for the message.
        layer: a linear layer, a stack of experts, or a router.

    Raises:
        TypeError: the class has no targeted variant (quantised layers have none), the layer is
            targeted already, or its forward was replaced.
    """
    module = _module_of(layer)
    stock = type(module)
    known = isinstance(layer, (nn.Linear, Conv1D, Stack, Router)) and not is_targeted(module)
    if not (known and _is_ordinary(layer.weight)):
        raise TypeError(
            f"cannot target {name}: expected a Linear or Conv1D layer with a floating-point weight "
            f"of its own, got {stock.__module__}.{stock.__name__}{_kind_of_weight(layer)}; "
            f"exclude it by exclude=[{name!r}]"
        )
    if "forward" in module.__dict__:
        raise TypeError(
            f"cannot target {name}: its forward was replaced on the instance, as device_map hooks "
            "and kernel patches do; patch the model before, or load it without them"
        )


def _is_ordinary(weight: Any) -> bool:
    """Return True for no tensor class of its own (sharded, quantised), and 16 bits or more."""
    return type(weight) is nn.Parameter and weight.is_floating_point() and weight.element_size() > 1


def _kind_of_weight(layer: Any) -> str:
    """Describe a weight that cannot be targeted; empty where the weight is not the reason."""
    weight = getattr(layer, "weight", None)
    if weight is None or _is_ordinary(weight):
        return ""
    if type(weight) is Tensor:
        return " whose weight is computed, as by a parametrization: remove that first"
    kind = f" with a {type(weight).__name__} of {weight.dtype}"
    if isinstance(weight, DTensor):
        return f"{kind}, of which a tensor-parallel plan or FSDP has a shard here"
    return f"{kind}, as quantised layers have: quantise the pruned model instead"


def check_not_sharded(name: str, layer: Any) -> None:
    """Raise TypeError where each process has but a part of a weight.

    FSDP makes parameters of another class or of no shape of their own; ZeRO-3 leaves none.
    """
    weight = layer.weight
    if isinstance(weight, DTensor) or weight.dim() < 2:
        raise TypeError(
            f"the weight of {name} was sharded after patching ({type(weight).__name__} of shape "
            f"{tuple(weight.shape)}), as FSDP and ZeRO-3 do; its rows cannot be ranked in parts: "
            "train with DistributedDataParallel, which leaves weights whole"
        )


def target(layer: Any, rule: Rule, cutoff: Tensor, *, scaled: bool, measured: bool) -> None:
    """Turn a linear layer into its targeted class, in place; nothing is dropped yet.

    The module stays the same object with the same parameters, hooks and flags, so optimisers,
    tied weights and modules that occur twice need no attention.

    Args:
        layer: one that `check_targetable` lets pass. A module of experts becomes targeted with the
            first of its stacks.
        rule: what the scores of its weight are.
        cutoff: the first cut-offs, in the shape of all that follow.
        scaled: its scores are scaled by activations.
        measured: its activations are measured.
    """
    module = _module_of(layer)
    if not is_targeted(module):
        module.__class__ = _targeted_class(layer)
    device = layer.weight.device
    module.__dict__[_own(layer, "rule")] = rule
    buffers: dict[str, Tensor | None] = {
        "cutoff": cutoff,
        "draw": torch.zeros(3, dtype=torch.int64, device=device),
    }
    if not isinstance(layer, Stack):
        features = measured_features(layer)
        buffers["scale"] = torch.ones(features, device=device) if scaled else None
        buffers["input_squares"] = torch.zeros(features, device=device) if measured else None
        # An integer, so that it counts right in a model that is cast to half precision.
        rows = torch.zeros((), dtype=torch.long, device=device)
        buffers["input_rows"] = rows if measured else None
    for name, buffer in buffers.items():
        module.register_buffer(_own(layer, name), buffer, persistent=False)


def restore(layer: Any) -> None:
    """Turn a targeted layer back into its stock class, in place; experts with their last stack.

    A router from which experts were pruned goes on leaving them out.
    """
    module = _module_of(layer)
    for name in ("cutoff", "draw", "scale", "input_squares", "input_rows"):
        module._buffers.pop(_own(layer, name), None)
        module._non_persistent_buffers_set.discard(_own(layer, name))
    del module.__dict__[_own(layer, "rule")]
    stop_measuring(layer)
    if not _targeted_stacks(module):
        module.__class__ = type(module).__bases__[-1]
    if isinstance(layer, Router):
        mark_pruned(module)


def set_buffer(layer: Any, name: str, value: Tensor) -> None:
    """Replace a buffer of a targeted layer.

    An assignment does the same with checks that take longer than a small tensor.
    """
    _module_of(layer)._buffers[_own(layer, name)] = value


def cut_of(layer: Any) -> Cut:
    """Return what the current update drops of a targeted layer."""
    buffers = _module_of(layer)._buffers
    return Cut(*(buffers.get(_own(layer, name)) for name in Cut._fields))


def rule_of(layer: Any) -> Rule:
    """Return what the scores of a targeted layer's weight are."""
    return _module_of(layer).__dict__[_own(layer, "rule")]


def kept(layer: Any) -> Tensor:
    """Compute the mask of the current update, boolean, of the shape of the weight.

    Of a router it is `(experts,)`.
    """
    if isinstance(layer, Router):
        return cut_of(layer).cutoff <= 0
    return ~functional.is_dropped(layer.weight.detach(), cut_of(layer), rule_of(layer))


def measured_features(layer: Any) -> int:
    """Return the number of measured features: inputs of a layer, experts of a router."""
    layout = linear_layout(layer)
    return layer.weight.shape[0 if layout is None else layout.fan_in_dim]


def can_measure(layer: Any) -> bool:
    """Return True where importance by activation applies: not to experts, which see few tokens."""
    return not isinstance(layer, Stack)


def measured_in(layer: Any) -> tuple[Tensor, Tensor] | None:
    """Return the sum of squared inputs of a targeted layer and the number of rows.

    They are those of the update that was measured last, as tensors that it adds to; None for
    experts.
    """
    module = _module_of(layer)
    return (module.input_squares, module.input_rows) if can_measure(layer) else None


def start_measuring(layer: Any) -> None:
    """Measure from zero, in float32 whatever the model was cast to; experts are not measured."""
    pair = measured_in(layer)
    if pair is not None:
        squares, rows = pair
        set_buffer(layer, "input_squares", torch.zeros_like(squares, dtype=torch.float32))
        rows.zero_()
        _module_of(layer).measuring = True


def stop_measuring(layer: Any) -> None:
    """Measure no more until `start_measuring`."""
    _module_of(layer).__dict__.pop("measuring", None)


def is_targeted(module: nn.Module) -> bool:
    """Return True for a targeted layer or router, and for experts with a targeted stack."""
    return isinstance(module, (TargetedMixin, TargetedExpertsMixin))
