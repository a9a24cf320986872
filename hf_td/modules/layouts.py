"""How the classes of linear layers lay out their weights. A new class is a new row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class Layout:
    """Where a linear layer keeps its units.

    Attributes:
        unit_dim: the dimension of `weight` that runs over output units.
        fan_in_dim: the dimension of `weight` that runs over input features.
    """

    unit_dim: int
    fan_in_dim: int


LAYOUTS: dict[type[nn.Module], Layout] = {
    nn.Linear: Layout(unit_dim=0, fan_in_dim=1),
    Conv1D: Layout(unit_dim=1, fan_in_dim=0),
}


class Stack:
    """One linear layer of every expert of a module, with the attributes of a linear layer.

    Transformers keeps the experts of a mixture in 3-D parameters of one module, `(experts, out,
    in)`, or `(experts, in, out)` where the module says that they are transposed.

    Attributes:
        module: the module of all experts.
        name: of the parameter in it.
    """

    def __init__(self, module: Any, name: str) -> None:
        self.module = module
        self.name = name

    @property
    def layout(self) -> Layout:
        """Where the parameter keeps its units; the first dimension runs over experts."""
        transposed = self.module.is_transposed
        return Layout(unit_dim=2, fan_in_dim=1) if transposed else Layout(unit_dim=1, fan_in_dim=2)

    @property
    def weight(self) -> nn.Parameter:
        """Of all experts."""
        return self.module._parameters[self.name]

    @property
    def bias(self) -> nn.Parameter | None:
        """`(experts, out)`, where there is one."""
        return self.module._parameters.get(f"{self.name}_bias")

    @property
    def keep(self) -> Tensor:
        """What multiplies `weight` while training, in a targeted module."""
        return getattr(self.module, self.keep_name)

    @keep.setter
    def keep(self, value: Tensor) -> None:
        setattr(self.module, self.keep_name, value)

    @property
    def keep_name(self) -> str:
        """The name of the buffer in the module."""
        return f"{self.name}_keep"


def stacks_of(module: nn.Module) -> list[Stack]:
    """The stacks of a module of experts; none for any other module."""
    own = module._parameters.items()
    names = [n for n, p in own if p is not None and p.dim() == 3 and p.is_floating_point()]
    if not names or not isinstance(getattr(module, "is_transposed", None), bool):
        return []  # in this order, since few modules have any, and to look for what is not costs
    return [Stack(module, name) for name in names]


def expert_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Dotted name to module of experts."""
    return {name: module for name, module in model.named_modules() if stacks_of(module)}


def find_layer(model: nn.Module, name: str) -> Any:
    """The linear layer of a dotted name, or the stack of experts whose parameter it names."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    return Stack(module, leaf) if leaf in module._parameters else module.get_submodule(leaf)


def parameter_names(model: nn.Module, name: str) -> list[str]:
    """The dotted names of the weight and, where there is one, the bias of a linear layer."""
    layer = find_layer(model, name)
    weight, bias = (name, f"{name}_bias")
    if not isinstance(layer, Stack):
        weight, bias = f"{name}.weight", f"{name}.bias"
    return [weight] if getattr(layer, "bias", None) is None else [weight, bias]


def linear_layout(layer: Any) -> Layout | None:
    """The layout of a linear layer (subclasses included) or a stack; None for anything else."""
    if isinstance(layer, Stack):
        return layer.layout
    for cls, row in LAYOUTS.items():
        if isinstance(layer, cls):
            return row
    return None


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Dotted name to linear layer; a layer that occurs twice is listed once, by its first name."""
    return {name: m for name, m in model.named_modules() if linear_layout(m) is not None}


def out_features(module: nn.Module) -> int:
    """Number of output units of a linear layer."""
    return _weight(module).shape[_require_layout(module).unit_dim]


def in_features(module: nn.Module) -> int:
    """Number of input features of a linear layer."""
    return _weight(module).shape[_require_layout(module).fan_in_dim]


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def _require_layout(module: nn.Module) -> Layout:
    layout = linear_layout(module)
    if layout is None:
        raise TypeError(f"expected a linear layer, one of {_known()}, got {type(module).__name__}")
    return layout


def _known() -> list[str]:
    return [cls.__name__ for cls in LAYOUTS]
