"""How the classes of linear layers lay out their weights. A new class is a new row."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class Layout:
    """Where a linear layer keeps its units.

    Attributes:
        unit_dim: the dimension of `weight` that runs over output units.
    """

    unit_dim: int

    @property
    def fan_in_dim(self) -> int:
        """The dimension of `weight` that runs over input features."""
        return 1 - self.unit_dim


LAYOUTS: dict[type[nn.Module], Layout] = {
    nn.Linear: Layout(unit_dim=0),
    Conv1D: Layout(unit_dim=1),
}


def layout_of(module: nn.Module) -> Layout | None:
    """The layout of a linear layer (subclasses included), or None for any other module."""
    return next((row for cls, row in LAYOUTS.items() if isinstance(module, cls)), None)


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Dotted name to linear layer; a layer that occurs twice is listed once, by its first name."""
    return {name: m for name, m in model.named_modules() if layout_of(m) is not None}


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
    layout = layout_of(module)
    if layout is None:
        raise TypeError(f"expected a linear layer, one of {_known()}, got {type(module).__name__}")
    return layout


def _known() -> list[str]:
    return [cls.__name__ for cls in LAYOUTS]
