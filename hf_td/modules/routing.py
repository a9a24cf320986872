"""Routers of mixtures that never choose dropped or pruned experts.

An expert whose weights are zero is still chosen, and its share of the output is lost. So a router
excludes an expert by a logit of minus infinity. It then chooses among the remaining experts and
normalises over them, exactly as if the model had been built without the excluded one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from hf_td.modules.classes import class_of


class Router:
    """The router of a mixture, with the attributes of a layer that can be targeted.

    Attributes:
        module: owns `weight` and returns the weights and the indices of the chosen experts.
    """

    def __init__(self, module: Any) -> None:
        self.module = module

    @property
    def weight(self) -> nn.Parameter:
        """One row per expert, `(experts, hidden)`."""
        return self.module.weight


class _Excluding(TorchFunctionMode):
    """A mode in which `F.linear` returns minus infinity for excluded experts.

    Args:
        excluded: boolean, `(experts,)`.
    """

    def __init__(self, excluded: Tensor) -> None:
        super().__init__()
        self.excluded = excluded

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call `func`; mask the logits if it is `F.linear`."""
        output = func(*args, **(kwargs or {}))
        return output.masked_fill(self.excluded, -torch.inf) if func is F.linear else output


class MaskedRouterMixin:
    """A router that never chooses an expert whose row in `weight` is all zeros.

    A row of zeros marks a pruned expert only in a module of this class. `mark_pruned` sets it.
    """

    weight: nn.Parameter

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the stock forward without pruned experts."""
        return self.route(pruned_experts(self), *args, **kwargs)

    def route(self, excluded: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run the stock forward without the experts marked in `excluded`, boolean `(experts,)`."""
        parent: Any = super()
        with _Excluding(excluded):
            return parent.forward(*args, **kwargs)


def empty_rows(weight: Tensor) -> Tensor:
    """Return True for the rows of a router's weight that are all zeros, boolean `(rows,)`."""
    return (weight.detach() == 0).all(1)


def pruned_experts(router: Any) -> Tensor:
    """Return True for the experts that a router never chooses in any mode, boolean `(experts,)`."""
    empty = empty_rows(router.weight)
    return empty if isinstance(router, MaskedRouterMixin) else torch.zeros_like(empty)


def mark_pruned(router: Any) -> None:
    """Exclude experts with rows of zeros; restore the stock class if there are none."""
    empty = bool(empty_rows(router.weight).any())
    if empty and not isinstance(router, MaskedRouterMixin):
        router.__class__ = masked_class(type(router))
    elif not empty and type(router) is masked_class(stock_class(router)):
        router.__class__ = stock_class(router)


def stock_class(router: Any) -> type[Any]:
    """Return the class of a router without its masking mixin."""
    cls = type(router)
    return cls.__bases__[-1] if isinstance(router, MaskedRouterMixin) else cls


def masked_class(stock: type[Any]) -> type[Any]:
    """Return the class of a router that excludes pruned experts."""
    return class_of(MaskedRouterMixin, stock, "Masked")


def marked_routers(model: nn.Module) -> dict[str, Any]:
    """Return the routers with pruned experts by dotted name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, MaskedRouterMixin) and pruned_experts(module).any()
    }


def chosen_experts(values: Iterable[Any]) -> tuple[Tensor, Tensor] | None:
    """Return the weights and the indices of the chosen experts, each `(tokens, chosen)`.

    Args:
        values: the outputs of a router, or the arguments of the experts.

    Returns:
        The first floating-point tensor whose shape equals that of the first 2-D integer tensor,
        and that integer tensor. None if either is missing.
    """
    tensors = [value for value in values if isinstance(value, Tensor)]
    index = next((t for t in tensors if not t.is_floating_point() and t.dim() == 2), None)
    shape = None if index is None else index.shape
    weights = next((t for t in tensors if t.is_floating_point() and t.shape == shape), None)
    return None if index is None or weights is None else (weights, index)


def spread_weights(weights: Tensor, index: Tensor, experts: int) -> Tensor:
    """Return each expert's weight, 0 if not chosen, as float32 `(tokens, experts)`."""
    spread = torch.zeros(len(index), experts, device=weights.device)
    return spread.scatter(1, index.long(), weights.detach().float())


def routed_squares(output: Any, experts: int) -> tuple[Tensor, int]:
    """Return the sum of squared weights per expert, `(experts,)`, and the number of tokens.

    Args:
        output: output of the router.
        experts: number of experts.
    """
    chosen = chosen_experts(output)
    assert chosen is not None, "the reading has proven that this router returns its choice"
    return spread_weights(*chosen, experts).square().sum(0), len(chosen[1])
