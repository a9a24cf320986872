"""Counts what pruning removed from a model, against the dense model that it was."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hf_td.anatomy import Holder, find_layer
from hf_td.compaction import layout_of_model
from hf_td.hub.stock_config import build_empty, express
from hf_td.pruning import count_sparsity


@dataclass(frozen=True, kw_only=True)
class Removal:
    """The removed part of a model.

    Attributes:
        removed: number of prunable weights that are zero or were taken out.
        prunable: number of all prunable weights of the dense model.
        parameters: number of all parameters of the dense model.
        bytes: their size in memory, in the dtype of the model.
        structured: True where whole heads, neurons or experts are removed.
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
    """Count the removed weights of a masked or compact model.

    The dense model is the stock model of its config, built on the meta device.
    """
    report = count_sparsity(model, holders)
    compact = layout_of_model(model) is not None
    dense = model
    if compact:
        config, _ = express(model, (), {})
        dense = build_empty(model, config).to(model.dtype)
    prunable = sum(find_layer(dense, layer.name).weight.numel() for layer in report.layers)
    parameters = list(dense.parameters())
    return Removal(
        removed=prunable - sum(layer.kept for layer in report.layers),
        prunable=prunable,
        parameters=sum(p.numel() for p in parameters),
        bytes=sum(p.numel() * p.element_size() for p in parameters),
        structured=compact or any(block.removed for block in report.blocks),
    )
