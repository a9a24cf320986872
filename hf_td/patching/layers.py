"""Linear layers that drop what targeted dropout chose for the current update.

A layer holds one mask, `keep`, which is drawn outside of its forward (once per update, see
`hf_td.patching`) and only read here: so every micro-batch, every recomputation of a checkpointed
activation and every call of a shared layer sees the same mask, and a compiled forward never
recompiles. In eval mode a layer is its stock class.
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

from hf_td import kernels
from hf_td.anatomy import Stack, linear_layout, stacks_of
from hf_td.modules.classes import class_of
from hf_td.modules.routing import (
    MaskedRouterMixin,
    Router,
    mark_pruned,
    pruned_experts,
    routed_squares,
    stock_class,
)
from hf_td.patching.bundles import bundle_of, untie
from hf_td.ranking.activations import Meter, sampled_squares


class TargetedMixin:
    """What the targeted classes share: the mask, and the change of class that keeps the module.

    Attributes:
        keep: what multiplies `weight` while training; broadcastable to it, not saved.
        input_squares: sum of the squared inputs in the update that is measured, where importance
            needs them, else None; not saved.
        input_rows: how many rows that sum is of.
        meter: says whether to measure; None where importance does not need it.
    """

    weight: nn.Parameter
    keep: Tensor
    input_squares: Tensor | None
    input_rows: Tensor
    meter: Meter | None = None

    def effective_weight(self) -> Tensor:
        """The weight that this update uses; see `kernels.masked`."""
        together = None if torch.compiler.is_compiling() else bundle_of(self)
        if together is None:
            return kernels.masked(self.weight, self.keep)
        return together.weight_of(self)

    def measures(self) -> bool:
        """Whether this update is one that is measured.

        A compiled forward measures in all: it would be compiled anew to leave that out, and what it
        adds between is set to zero before the next one that counts.
        """
        return self.meter is not None and (torch.compiler.is_compiling() or self.meter.on)

    def measure(self, inputs: Tensor) -> None:
        """Add a training input, `(..., fan_in)`, to what importance by activation looks at."""
        if self.measures():
            with torch.no_grad():
                self.add_squares(*sampled_squares(inputs))

    def add_squares(self, squares: Tensor, rows: int) -> None:
        """Add a sum of squares and the number of its rows to what was measured."""
        if self.input_squares is not None:
            self.input_squares += squares
            self.input_rows += rows


class TargetedLinear(TargetedMixin, nn.Linear):
    """`nn.Linear` under targeted dropout; `weight` is `(out, in)`."""

    def forward(self, input: Tensor) -> Tensor:
        """`(..., in)` to `(..., out)`."""
        if not self.training:
            return super().forward(input)
        self.measure(input)
        return F.linear(input, self.effective_weight(), self.bias)


class TargetedConv1D(TargetedMixin, Conv1D):
    """GPT-2's `Conv1D` under targeted dropout; `weight` is `(in, out)`."""

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in)` to `(..., out)`."""
        if not self.training:
            return super().forward(x)
        self.measure(x)
        flat = x.reshape(-1, x.shape[-1])
        weight = self.effective_weight()
        return torch.addmm(self.bias, flat, weight).view(*x.shape[:-1], self.nf)


class ShadowedMixin(TargetedMixin):
    """For subclasses of `nn.Linear` with a forward of their own, which reads `self.weight`.

    While that forward runs in training, the masked weight stands in front of the parameter.
    """

    training: bool

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """What the stock class computes, with the weight of this update."""
        parent: Any = super()
        if not self.training:
            return parent.forward(*args, **kwargs)
        self.measure(*args, *kwargs.values())
        with _in_front(self, {"weight": self.effective_weight()}):
            return parent.forward(*args, **kwargs)


class TargetedExpertsMixin:
    """For modules of experts, whose forwards read 3-D parameters.

    As in `ShadowedMixin`, masked weights stand in front of those parameters that have a mask.
    """

    training: bool

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """What the stock class computes, with the weights of this update."""
        parent: Any = super()
        if not self.training:
            return parent.forward(*args, **kwargs)
        stacks = _targeted_stacks(self)
        masked = {stack.name: kernels.masked(stack.weight, stack.keep) for stack in stacks}
        with _in_front(self, masked):
            return parent.forward(*args, **kwargs)


class TargetedRouterMixin(TargetedMixin, MaskedRouterMixin):
    """For routers, which do not choose the experts that this update drops.

    `keep` is boolean, `(experts,)`. What importance looks at are the weights that the router would
    give without dropping: or what is dropped would seem to be of no use, and be dropped again.
    """

    training: bool

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the stock class gives without the experts that are dropped or gone."""
        gone = pruned_experts(self)
        if not self.training:
            return self.route(gone, *args, **kwargs)
        if self.measures():
            with torch.no_grad():
                output = self.route(gone, *args, **kwargs)
                self.add_squares(*routed_squares(output, len(gone)))
        return self.route(gone | ~self.keep, *args, **kwargs)


def _targeted_stacks(module: Any) -> list[Stack]:
    return [stack for stack in stacks_of(module) if stack.keep_name in module._buffers]


@contextmanager
def _in_front(module: Any, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Let a module read these tensors where it has parameters of the same names."""
    module.__dict__.update(tensors)
    try:
        yield
    finally:
        for name in tensors:
            del module.__dict__[name]


# Stock class to targeted class. Another layout is another row here and in anatomy/layouts.py; for
# subclasses of nn.Linear, experts and routers a class is made when they are met.
TARGETED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: TargetedLinear,
    Conv1D: TargetedConv1D,
}


def _targeted_class(layer: Any) -> type[nn.Module]:
    """The targeted class of a layer, or of the module that it lies in."""
    stock = stock_class(_module_of(layer))
    return TARGETED.get(stock) or class_of(_mixin(layer), stock, "Targeted")


def _mixin(layer: Any) -> Any:
    if isinstance(layer, Router):
        return TargetedRouterMixin
    return TargetedExpertsMixin if isinstance(layer, Stack) else ShadowedMixin


def _can_be_targeted(layer: Any) -> bool:
    """A linear layer, stack or router that is not targeted yet and keeps an ordinary weight."""
    known = isinstance(layer, (nn.Linear, Conv1D, Stack, Router))
    return known and not is_targeted(_module_of(layer)) and _is_ordinary(layer.weight)


def _is_ordinary(weight: Any) -> bool:
    """No tensor class of its own (sharded, quantised), and no less than 16 bits."""
    return type(weight) is nn.Parameter and weight.is_floating_point() and weight.element_size() > 1


def _module_of(layer: Any) -> Any:
    return layer.module if isinstance(layer, (Stack, Router)) else layer


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
    if not _can_be_targeted(layer):
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


def check_whole(name: str, layer: Any) -> None:
    """Raise TypeError where each process has but a part of a weight.

    Rows cannot be ranked in it. FSDP makes parameters of another class or of no shape of their own;
    ZeRO-3 leaves none.
    """
    weight = layer.weight
    if isinstance(weight, DTensor) or weight.dim() < 2:
        raise TypeError(
            f"the weight of {name} was sharded after patching ({type(weight).__name__} of shape "
            f"{tuple(weight.shape)}), as FSDP and ZeRO-3 do; its rows cannot be ranked in parts: "
            "train with DistributedDataParallel, which leaves weights whole"
        )


def _kind_of_weight(layer: Any) -> str:
    """What its weight is, where that is what stands in the way."""
    weight = getattr(layer, "weight", None)
    if weight is None or _is_ordinary(weight):
        return ""
    if type(weight) is Tensor:
        return " whose weight is computed, as by a parametrization: remove that first"
    kind = f" with a {type(weight).__name__} of {weight.dtype}"
    if isinstance(weight, DTensor):
        return f"{kind}, of which a tensor-parallel plan or FSDP has a shard here"
    return f"{kind}, as quantised layers have: quantise the pruned model instead"


def target(layer: Any, keep: Tensor, *, meter: Meter | None = None) -> None:
    """Turn a linear layer into its targeted class, in place.

    The module stays the same object with the same parameters, hooks and flags, so optimisers,
    tied weights and modules that occur twice need no attention.

    Args:
        layer: one that `check_targetable` lets pass. A module of experts becomes targeted with the
            first of its stacks.
        keep: the first mask, broadcastable to `layer.weight`.
        meter: says in which updates to sum up the squares of its inputs; None for in none, as in
            experts.
    """
    module = _module_of(layer)
    if not is_targeted(module):
        module.__class__ = _targeted_class(layer)
    module.register_buffer(_keep_name(layer), keep, persistent=False)
    if can_measure(layer):
        _prepare_to_measure(layer, meter)


def _prepare_to_measure(layer: Any, meter: Meter | None) -> None:
    module = _module_of(layer)
    module.__dict__["meter"] = meter
    squares = rows = None
    if meter is not None:
        squares = torch.zeros(measured_features(layer), device=module.weight.device)
        # An integer, so that it counts right in a model that is cast to half precision.
        rows = torch.zeros((), dtype=torch.long, device=module.weight.device)
    module.register_buffer("input_squares", squares, persistent=False)
    module.register_buffer("input_rows", rows, persistent=False)


def measured_features(layer: Any) -> int:
    """Of how many features activations are measured: the inputs of a layer, a router's experts."""
    layout = linear_layout(layer)
    return layer.weight.shape[0 if layout is None else layout.fan_in_dim]


def restore(layer: Any) -> None:
    """Turn a targeted layer back into its stock class, in place; experts with their last stack.

    A router from which experts were pruned goes on leaving them out.
    """
    module = _module_of(layer)
    delattr(module, _keep_name(layer))
    untie(module)
    if can_measure(layer):
        del module.input_squares, module.input_rows, module.meter
    if not _targeted_stacks(module):
        module.__class__ = type(module).__bases__[-1]
    if isinstance(layer, Router):
        mark_pruned(module)


def _keep_name(layer: Any) -> str:
    return layer.keep_name if isinstance(layer, Stack) else "keep"


def can_measure(layer: Any) -> bool:
    """Whether importance by activation applies: not to experts, which see a few tokens each."""
    return not isinstance(layer, Stack)


def measured_in(layer: Any) -> tuple[Tensor, Tensor] | None:
    """The sum of the squared inputs of a targeted layer, and the number of rows; None for experts.

    They are those of the update that was measured last, as tensors that it adds to.
    """
    module = _module_of(layer)
    return (module.input_squares, module.input_rows) if can_measure(layer) else None


def measure_anew(layer: Any) -> None:
    """Forget what was measured; from here on in float32, whatever the model was cast to."""
    pair = measured_in(layer)
    if pair is None:
        return
    squares, rows = pair
    if squares.dtype != torch.float32:
        _module_of(layer).input_squares = torch.zeros_like(squares, dtype=torch.float32)
    squares.zero_()
    rows.zero_()


def can_be_bundled(layer: Any) -> bool:
    """Whether the weight's only use is the matrix product of a forward that is known here."""
    return type(layer) in (TargetedLinear, TargetedConv1D)


def is_targeted(module: nn.Module) -> bool:
    """Whether the module is a targeted layer or router, or has experts that are targeted."""
    return isinstance(module, (TargetedMixin, TargetedExpertsMixin))
