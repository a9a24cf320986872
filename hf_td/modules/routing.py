"""Routers of mixtures of experts, and how they leave experts out.

Zeros do not take an expert out of a mixture: the router still sends tokens to it, and its share of
their weight is lost. What is left out must not be chosen: its logit is minus infinity, so that the
router chooses among the others and spreads the weight over them, as in a model without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from hf_td.modules.classes import class_of

# What targeting adds to the module of a router; none of it is saved.
OWN_BUFFERS = ("keep", "input_squares", "input_rows")


class Router:
    """The router of a mixture, with the attributes of a layer that can be targeted.

    Attributes:
        module: owns a `weight`, and gives the weights and the indices of the experts it chooses.
    """

    def __init__(self, module: Any) -> None:
        self.module = module

    @property
    def weight(self) -> nn.Parameter:
        """`(experts, hidden)`."""
        return self.module.weight

    @property
    def keep(self) -> Tensor:
        """Boolean `(experts,)`, in a targeted router: what the current update does not drop."""
        return self.module.keep

    @keep.setter
    def keep(self, value: Tensor) -> None:
        self.module.keep = value


class LeavingOut(TorchFunctionMode):
    """While it is on, a linear map gives minus infinity for the experts that are left out.

    Args:
        left_out: boolean, `(experts,)`.
    """

    def __init__(self, left_out: Tensor) -> None:
        super().__init__()
        self.left_out = left_out

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """What `func` gives; the logits with what is left out."""
        output = func(*args, **(kwargs or {}))
        return output.masked_fill(self.left_out, -torch.inf) if func is F.linear else output


class MaskedRouterMixin:
    """For routers of pruned models: an expert whose row is all zeros is gone, and never chosen.

    The mark lies in the weights, as with all that is pruned; it counts only in a module of this
    class, which `mark_pruned` gives to a router.
    """

    weight: nn.Parameter

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the stock class gives without the experts that are gone."""
        return self.route(pruned_experts(self), *args, **kwargs)

    def route(self, left_out: Tensor, *args: Any, **kwargs: Any) -> Any:
        """What the stock class gives without some experts, boolean `(experts,)`."""
        parent: Any = super()
        with LeavingOut(left_out):
            return parent.forward(*args, **kwargs)


def empty_rows(weight: Tensor) -> Tensor:
    """Boolean `(rows,)`: which rows of a router's weight are all zeros."""
    return (weight.detach() == 0).all(1)


def pruned_experts(router: Any) -> Tensor:
    """Boolean `(experts,)`: which experts the module of a router never chooses, in any mode."""
    empty = empty_rows(router.weight)
    return empty if isinstance(router, MaskedRouterMixin) else torch.zeros_like(empty)


def mark_pruned(router: Any) -> None:
    """Let the module of a router leave out what has rows of zeros; a stock module again if none."""
    empty = bool(empty_rows(router.weight).any())
    if empty and not isinstance(router, MaskedRouterMixin):
        router.__class__ = masked_class(type(router))
    elif not empty and type(router) is masked_class(stock_class(router)):
        router.__class__ = stock_class(router)


def stock_class(router: Any) -> type[Any]:
    """The class that a router has where nothing is left out."""
    cls = type(router)
    return cls.__bases__[-1] if isinstance(router, MaskedRouterMixin) else cls


def masked_class(stock: type[Any]) -> type[Any]:
    """The class of a router that leaves out what is gone."""
    return class_of(MaskedRouterMixin, stock, "Masked")


def marked_routers(model: nn.Module) -> dict[str, nn.Module]:
    """The routers of a model that leave experts out for good, by dotted name."""
    return {n: m for n, m in model.named_modules() if bool(_is_marked(m))}


def _is_marked(module: nn.Module) -> bool:
    return isinstance(module, MaskedRouterMixin) and bool(pruned_experts(module).any())


def chosen_experts(values: Iterable[Any]) -> tuple[Tensor, Tensor] | None:
    """The weights and the indices of the chosen experts, each `(tokens, chosen)`.

    Args:
        values: what a router gives, or what is given to the experts.

    Returns:
        The integers among them and the numbers of the same shape; None where there are none.
    """
    tensors = [value for value in values if isinstance(value, Tensor)]
    index = next((t for t in tensors if not t.is_floating_point() and t.dim() == 2), None)
    if index is None:
        return None
    weights = (t for t in tensors if t.is_floating_point() and t.shape == index.shape)
    found = next(weights, None)
    return None if found is None else (found, index)


def spread_weights(weights: Tensor, index: Tensor, experts: int) -> Tensor:
    """`(tokens, experts)`, float32: the weight of each expert, 0 where it was not chosen."""
    spread = torch.zeros(len(index), experts, device=weights.device)
    return spread.scatter(1, index.long(), weights.detach().float())


def routed_squares(output: Any, experts: int) -> tuple[Tensor, int]:
    """Sum of the squared weights that a router gives each expert, and the number of tokens.

    Args:
        output: of the router, for all of its experts.
        experts: how many there are.
    """
    chosen = chosen_experts(output)
    assert chosen is not None, "a router that was proven to hand its choice out"
    return spread_weights(*chosen, experts).square().sum(0), len(chosen[1])
