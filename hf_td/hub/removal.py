"""What pruning took out of a model, against the dense model that it was."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from hf_td.anatomy import Holder, find_layer
from hf_td.compaction import layout_of_model
from hf_td.hub.stock import build_empty, express
from hf_td.pruning import count_sparsity


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What is gone of a model.

    Attributes:
        removed: prunable weights that are zero, or not there any more.
        prunable: all prunable weights of the dense model.
        parameters: all parameters of the dense model.
        bytes: their size in memory, in the type of the model.
        structured: whether whole heads, neurons or experts are gone.
    """

    removed: int
    prunable: int
    parameters: int
    bytes: int
    structured: bool

    @property
    def sparsity(self) -> float:
        """The removed fraction of the prunable weights."""
        return self.removed / self.prunable if self.prunable else 0.0

    @property
    def share_of_parameters(self) -> float:
        """The removed fraction of all parameters."""
        return self.removed / self.parameters


def count_removal(model: Any, holders: Iterable[Holder]) -> Removal:
    """Count what is gone of a masked or compact model.

    The dense model is the stock model of its config; it is built without memory.
    """
    report = count_sparsity(model, holders)
    compact = layout_of_model(model) is not None
    dense = _stock_model(model) if compact else model
    prunable = sum(_weight(dense, layer.name).numel() for layer in report.layers)
    parameters = list(dense.parameters())
    return Removal(
        removed=prunable - sum(layer.kept for layer in report.layers),
        prunable=prunable,
        parameters=sum(p.numel() for p in parameters),
        bytes=sum(p.numel() * p.element_size() for p in parameters),
        structured=compact or any(block.removed for block in report.blocks),
    )


def _stock_model(model: Any) -> nn.Module:
    config, _ = express(model, (), {})
    return build_empty(model, config).to(model.dtype)


def _weight(model: nn.Module, name: str) -> Tensor:
    return find_layer(model, name).weight
