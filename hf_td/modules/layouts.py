"""Linear layers of every class, and the dimensions of their weights. A new class is a new row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class Layout:
    """The dimensions of a linear layer's weight.

    Attributes:
        unit_dim: the dimension that runs over output units.
        fan_in_dim: the dimension that runs over input features.
    """

    unit_dim: int
    fan_in_dim: int


LAYOUTS: dict[type[nn.Module], Layout] = {
    nn.Linear: Layout(unit_dim=0, fan_in_dim=1),
    Conv1D: Layout(unit_dim=1, fan_in_dim=0),
}


class Stack:
    """One linear layer of every expert in a module, with the attributes of a linear layer.

    Transformers keeps the experts of a mixture in 3-D parameters of one module. Their shape is
    `(experts, out, in)`, or `(experts, in, out)` if the module is marked as transposed.

    Attributes:
        module: the module that owns the experts.
        name: name of the 3-D parameter in that module.
    """

    def __init__(self, module: Any, name: str) -> None:
        self.module = module
        self.name = name

    @property
    def layout(self) -> Layout:
        """Dimensions of the 3-D parameter; dimension 0 runs over experts."""
        transposed = self.module.is_transposed
        return Layout(unit_dim=2, fan_in_dim=1) if transposed else Layout(unit_dim=1, fan_in_dim=2)

    @property
    def weight(self) -> nn.Parameter:
        """The 3-D parameter."""
        return self.module._parameters[self.name]

    @property
    def bias(self) -> nn.Parameter | None:
        """The biases of all experts, `(experts, out)`, or None."""
        return self.module._parameters.get(f"{self.name}_bias")


def stacks_of(module: nn.Module) -> list[Stack]:
    """Return the stacks that a module owns; the list is empty for all but modules of experts."""
    own = module._parameters.items()
    names = [n for n, p in own if p is not None and p.dim() == 3 and p.is_floating_point()]
    # In this order: looking up a missing attribute is slow, and few modules own a 3-D parameter.
    if not names or not isinstance(getattr(module, "is_transposed", None), bool):
        return []
    return [Stack(module, name) for name in names]


def expert_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of experts by dotted name."""
    return {name: module for name, module in model.named_modules() if stacks_of(module)}


def find_layer(model: nn.Module, name: str) -> Any:
    """Return the linear layer or the `Stack` with a dotted name; a stack is named by parameter."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    return Stack(module, leaf) if leaf in module._parameters else module.get_submodule(leaf)


def parameter_names(model: nn.Module, name: str) -> list[str]:
    """Return the dotted names of a linear layer's weight and, if it has one, its bias."""
    layer = find_layer(model, name)
    if isinstance(layer, Stack):
        weight, bias = name, f"{name}_bias"
    else:
        weight, bias = f"{name}.weight", f"{name}.bias"
    return [weight] if getattr(layer, "bias", None) is None else [weight, bias]


def linear_layout(layer: Any) -> Layout | None:
    """Return the layout of a linear layer (subclasses included) or a stack, else None."""
    if isinstance(layer, Stack):
        return layer.layout
    return next((row for cls, row in LAYOUTS.items() if isinstance(layer, cls)), None)


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the linear layers by dotted name; a shared layer is listed once, by its first name."""
    return {name: m for name, m in model.named_modules() if linear_layout(m) is not None}


def out_features(layer: nn.Module) -> int:
    """Return the number of output units of a linear layer."""
    return _sizes(layer)[0]


def in_features(layer: nn.Module) -> int:
    """Return the number of input features of a linear layer."""
    return _sizes(layer)[1]


def _sizes(layer: Any) -> tuple[int, int]:
    layout = linear_layout(layer)
    if layout is None:
        known = " or ".join(cls.__name__ for cls in LAYOUTS)
        raise TypeError(f"{type(layer).__name__} is not a linear layer. Expected {known}.")
    return layer.weight.shape[layout.unit_dim], layer.weight.shape[layout.fan_in_dim]
