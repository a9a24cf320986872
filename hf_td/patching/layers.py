"""Targeted layers, which drop the candidates of the current update in their forward.

How a weight is masked:

1. `anneal` sets the buffers `cutoff` and `draw` of every targeted layer, once per update (see
   `hf_td.patching.cutoffs`). A forward only reads them.
2. The mask is a pure function of the weight, of these buffers and `scale`, and of the layer's fixed
   `rule`: `functional.is_dropped`. So every micro-batch, every recomputation of a checkpointed
   activation and every call of a shared layer computes the same mask.
3. In training mode `kernels.masked_linear` computes the mask in the forward. For the backward it
   saves one byte for each weight on the CPU; on CUDA it computes the mask again. Neither the mask
   nor the masked weight outlives them.
4. A unit is dropped at its consumer, by infinite cut-offs in the unit's inputs; an expert at its
   router, and a whole layer in its stack, each by an infinite cut-off of its own.
5. `scale` changes only together with the averages of measured activations.
6. In eval mode a layer computes its stock forward with the whole weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.pytorch_utils import Conv1D

from hf_td import functional, kernels
from hf_td.anatomy.replaced import is_packed
from hf_td.functional import Cut, Rule
from hf_td.modules.classes import class_of
from hf_td.modules.layouts import Stack, linear_layout, stacks_of
from hf_td.modules.passing import LayerList
from hf_td.modules.routing import (
    MaskedRouterMixin,
    Router,
    mark_pruned,
    pruned_experts,
    routed_squares,
    stock_class,
)
from hf_td.patching.targeted import TargetedMixin
from hf_td.patching.whole_layers import TargetedStack, restore_layers, target_layers


class TargetedLinear(TargetedMixin, nn.Linear):
    """`nn.Linear` under targeted dropout; `weight` is `(out, in)`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the output, `(..., out)`, for an input `(..., in)`."""
        return self.masked_linear(input) if self.training else super().forward(input)


class TargetedConv1D(TargetedMixin, Conv1D):
    """GPT-2's `Conv1D` under targeted dropout; `weight` is `(in, out)`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the output, `(..., out)`, for an input `(..., in)`."""
        return self.masked_linear(x) if self.training else super().forward(x)


class ShadowedMixin(TargetedMixin):
    """Targeted dropout for subclasses of `nn.Linear` whose own forward reads `self.weight`.

    In training, the masked weight shadows the parameter while that forward runs.
    """

    training: bool

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the output of the stock forward with the masked weight of this update."""
        parent: Any = super()
        if not self.training:
            return parent.forward(*args, **kwargs)
        self.measure_if_due(*args, *kwargs.values())
        with _shadowed(self, {"weight": self.masked_weight()}):
            return parent.forward(*args, **kwargs)


class TargetedExpertsMixin:
    """Targeted dropout for modules of experts, whose forwards read 3-D parameters.

    As in `ShadowedMixin`, masked weights shadow the targeted parameters.
    """

    training: bool

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the output of the stock forward with the masked weights of this update."""
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
    """Targeted dropout for routers, which do not choose the experts that this update drops.

    An expert is dropped if its cut-off, one of `(experts,)`, is infinite and the threshold of the
    draws is not 0. Measured weights are
    those that the router gives without dropping. Otherwise a dropped expert would seem unimportant
    and would be dropped again.
    """

    training: bool

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the output of the stock forward without dropped and pruned experts."""
        pruned = pruned_experts(self)
        if not self.training:
            return self.route(pruned, *args, **kwargs)
        self.measure_if_due(*args, *kwargs.values())
        return self.route(pruned | _dropped_experts(self), *args, **kwargs)

    def measure(self, *inputs: Any) -> None:
        """Add the squared weights of all experts that are not pruned to those of this update."""
        pruned = pruned_experts(self)
        self.add_squares(*routed_squares(self.route(pruned, *inputs), len(pruned)))


def _dropped_experts(router: Any) -> Tensor:
    """Return True for the experts that an update drops, `(experts,)`; a dense update drops none."""
    return (router.cutoff > 0) & (router.draw[2] > 0)


def _targeted_stacks(module: Any) -> list[Stack]:
    return [stack for stack in stacks_of(module) if _local_name(stack, "cutoff") in module._buffers]


@contextmanager
def _shadowed(module: Any, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Shadow the parameters of a module by these tensors, by name, inside the context."""
    module.__dict__.update(tensors)
    try:
        yield
    finally:
        for name in tensors:
            del module.__dict__[name]


# Stock class to targeted class. A new layout is a new row here and in modules/layouts.py. The
# targeted classes of nn.Linear's subclasses, of experts and of routers are generated on first use.
TARGETED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: TargetedLinear,
    Conv1D: TargetedConv1D,
    nn.ModuleList: TargetedStack,
}


def _targeted_class(layer: Any) -> type[nn.Module]:
    """Return the targeted class of a layer, or of the module of a stack or router."""
    stock = stock_class(_module_of(layer))
    mixin: Any = ShadowedMixin
    if isinstance(layer, Router):
        mixin = TargetedRouterMixin
    elif isinstance(layer, Stack):
        mixin = TargetedExpertsMixin
    return TARGETED.get(stock) or class_of(mixin, stock, "Targeted")


def _module_of(layer: Any) -> Any:
    return layer.module if isinstance(layer, (Stack, Router, LayerList)) else layer


def _local_name(layer: Any, name: str) -> str:
    """Return the name of a layer's attribute in its module; stacks of one module prefix theirs."""
    return f"{layer.name}_{name}" if isinstance(layer, Stack) else name


def check_targetable(name: str, layer: Any) -> None:
    """Raise unless `target` can be applied to the layer.

    Args:
        name: dotted name of the layer, for the message.
        layer: a linear layer, a stack of experts, a router, or a stack of layers.

    Raises:
        TypeError: the class has no targeted variant (as with quantised layers), the layer is
            targeted already, or its forward was replaced.
    """
    module = _module_of(layer)
    stock = type(module)
    kinds = (nn.Linear, Conv1D, Stack, Router, LayerList)
    known = isinstance(layer, kinds) and not is_targeted(module)
    if not (known and _is_ordinary(layer.weight)):
        raise TypeError(
            f"cannot target {name}: expected a Linear or Conv1D layer with a floating-point weight "
            f"of its own, got {stock.__module__}.{stock.__name__}{_kind_of_weight(layer)}. "
            f"Leave it out by exclude=[{name!r}]"
        )
    inside = tuple(module) if isinstance(layer, LayerList) else ()
    if any("forward" in one.__dict__ for one in (module, *inside)):
        raise TypeError(
            f"cannot target {name}: its forward was replaced on the instance, as device_map hooks "
            "and kernel patches do. Patch the model first, or load it without them"
        )


def _is_ordinary(weight: Any) -> bool:
    """Return True for a plain floating-point parameter of 16 bits or more."""
    return type(weight) is nn.Parameter and weight.is_floating_point() and weight.element_size() > 1


def _kind_of_weight(layer: Any) -> str:
    """Return a description of a weight that cannot be targeted; empty for an ordinary weight."""
    weight = getattr(layer, "weight", None)
    if weight is None or _is_ordinary(weight):
        return ""
    if type(weight) is Tensor:
        return " whose weight is computed, as by a parametrization: remove the parametrization"
    kind = f" with a {type(weight).__name__} of {weight.dtype}"
    if isinstance(weight, DTensor):
        return f"{kind}, a shard of a tensor-parallel plan or of FSDP"
    return f"{kind}, as quantised layers have: quantise the pruned model instead"


def check_rankable(name: str, layer: Any) -> None:
    """Raise TypeError if rows of a weight were cut, or the weight was quantised, after patching.

    FSDP2 shards a weight by its first dimension. FSDP flattens it, and ZeRO-3 leaves it empty.
    torchao replaces it by a packed one.
    """
    weight = layer.weight
    if weight.dim() < 2:
        raise TypeError(
            f"the weight of {name} was sharded after patching (its shape is "
            f"{tuple(weight.shape)}), as FSDP 1 and ZeRO-3 do. Only whole rows can be ranked. "
            "Use FSDP2 (fully_shard, or fsdp_version 2), or DistributedDataParallel"
        )
    if kernels.is_sharded(weight) and not _has_whole_rows(layer):
        raise TypeError(
            f"the weight of {name} is sharded across its inputs ({weight.placements}). Only whole "
            "rows can be ranked. Shard along the outputs: give fully_shard "
            "shard_placement_fn=hf_td.patching.shard_by_rows(model)"
        )
    if is_packed(weight):
        raise TypeError(
            f"the weight of {name} was quantised after patching ({type(weight).__name__}). Packed "
            "weights can be neither ranked nor set to zero. Train and prune the model first, and "
            "quantise the pruned one"
        )


def check_computes_whole(name: str, layer: Any) -> None:
    """Raise TypeError if a targeted layer has become part of a tensor-parallel plan.

    Such a plan turns the buffers into shards too.
    """
    if kernels.is_sharded(cut_of(layer).draw):
        raise TypeError(
            f"{name} has become part of a tensor-parallel plan after patching. It would compute "
            "with part of its weight. Use FSDP2 or DistributedDataParallel"
        )


def _has_whole_rows(layer: Any) -> bool:
    layout = linear_layout(layer)
    dim = kernels.sharded_dim(layer.weight)
    return dim is not None and (layout is None or dim != layout.fan_in_dim % layer.weight.dim())


def target(layer: Any, rule: Rule, cutoff: Tensor, *, scaled: bool, measured: bool) -> None:
    """Change a layer to its targeted class, in place; nothing is dropped yet.

    The module stays the same object with the same parameters, hooks and flags. So optimisers, tied
    weights and modules that occur twice stay valid.

    Args:
        layer: a layer that passes `check_targetable`. A module of experts becomes targeted with the
            first of its stacks.
        rule: the rule by which every update scores the weight.
        cutoff: the first cut-offs, in the shape of all later ones.
        scaled: True if activations scale the scores.
        measured: True if activations are measured.
    """
    module = _module_of(layer)
    if not is_targeted(module):
        module.__class__ = _targeted_class(layer)
        if isinstance(layer, LayerList):
            target_layers(module)
    device = layer.weight.device
    module.__dict__[_local_name(layer, "rule")] = rule
    buffers: dict[str, Tensor | None] = {
        "cutoff": cutoff,
        "draw": torch.zeros(3, dtype=torch.int64, device=device),
    }
    if not isinstance(layer, Stack):
        features = measured_features(layer)
        buffers["scale"] = torch.ones(features, device=device) if scaled else None
        buffers["input_squares"] = torch.zeros(features, device=device) if measured else None
        # An integer, since half precision would round large counts.
        rows = torch.zeros((), dtype=torch.long, device=device)
        buffers["input_rows"] = rows if measured else None
    for name, buffer in buffers.items():
        module.register_buffer(_local_name(layer, name), buffer, persistent=False)


def restore(layer: Any) -> None:
    """Restore the stock class of a targeted layer, in place; of experts, with their last stack.

    A router keeps leaving its pruned experts out.
    """
    module = _module_of(layer)
    for name in ("cutoff", "draw", "scale", "input_squares", "input_rows"):
        module._buffers.pop(_local_name(layer, name), None)
        module._non_persistent_buffers_set.discard(_local_name(layer, name))
    del module.__dict__[_local_name(layer, "rule")]
    stop_measuring(layer)
    if not _targeted_stacks(module):
        module.__class__ = type(module).__bases__[-1]
    if isinstance(layer, Router):
        mark_pruned(module)
    if isinstance(layer, LayerList):
        restore_layers(module)


def set_buffer(layer: Any, name: str, value: Tensor) -> None:
    """Replace a buffer of a targeted layer, without the checks of an attribute assignment.

    For small tensors these checks take longer than everything else.
    """
    _module_of(layer)._buffers[_local_name(layer, name)] = value


def cut_of(layer: Any) -> Cut:
    """Return the cut-offs, draw and scale of a targeted layer in the current update."""
    buffers = _module_of(layer)._buffers
    return Cut(*(buffers.get(_local_name(layer, name)) for name in Cut._fields))


def rule_of(layer: Any) -> Rule:
    """Return the rule by which every update scores a targeted layer's weight."""
    return _module_of(layer).__dict__[_local_name(layer, "rule")]


def kept(layer: Any) -> Tensor:
    """Return True where the current update keeps a weight, boolean, in the shape of the weight.

    Of a sharded weight it is the part of this process.
    For a router it is `(experts,)`, True for kept experts; for a stack of layers `(layers,)`.
    """
    if isinstance(layer, LayerList):
        return ~layer.module.dropped()
    if isinstance(layer, Router):
        return ~_dropped_experts(layer.module)
    weight, cut = layer.weight.detach(), cut_of(layer)
    if not kernels.is_sharded(weight):
        return ~functional.is_dropped(weight, cut, rule_of(layer))
    scores = functional.weight_scores(kernels.local(weight), cut.scale, rule_of(layer))
    drawn = kernels.rows_of(functional.is_drawn(weight.shape, cut.draw), weight)
    return ~((scores < kernels.rows_of(cut.cutoff, weight)) & drawn)


def measured_features(layer: Any) -> int:
    """Return the number of measured features: inputs, or experts of a router, or layers."""
    if isinstance(layer, LayerList):
        return len(layer.module)
    layout = linear_layout(layer)
    return layer.weight.shape[0 if layout is None else layout.fan_in_dim]


def can_measure(layer: Any) -> bool:
    """Return True unless the layer is a stack of experts, each of which sees too few tokens."""
    return not isinstance(layer, Stack)


def measured_in(layer: Any) -> tuple[Tensor, Tensor] | None:
    """Return a targeted layer's sum of squared inputs and the number of rows; None for experts.

    They are the buffers that the last measured update adds to, not copies.
    """
    module = _module_of(layer)
    return (module.input_squares, module.input_rows) if can_measure(layer) else None


def start_measuring(layer: Any) -> None:
    """Reset the sums of a layer, in float32, and measure until `stop_measuring`.

    Stacks of experts are not measured.
    """
    pair = measured_in(layer)
    if pair is not None:
        squares, rows = pair
        set_buffer(layer, "input_squares", torch.zeros_like(squares, dtype=torch.float32))
        rows.zero_()
        _module_of(layer).measuring = True


def stop_measuring(layer: Any) -> None:
    """Stop measuring a layer until `start_measuring`."""
    _module_of(layer).__dict__.pop("measuring", None)


def is_targeted(module: nn.Module) -> bool:
    """Return True for a targeted layer or router, and for a module with a targeted stack."""
    return isinstance(module, (TargetedMixin, TargetedExpertsMixin))
