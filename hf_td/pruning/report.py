"""Counts what is removed from a model, in its weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from hf_td.anatomy import Block, Holder, Mixture, find_layer
from hf_td.kernels.reductions import count_nonzero
from hf_td.modules.passing import passed_layers
from hf_td.modules.routing import pruned_experts
from hf_td.ranking.importance import read_units


@dataclass(frozen=True)
class LayerSparsity:
    """The weights of one projection.

    Attributes:
        name: dotted name.
        removed: weights that are zero.
        total: all weights of the layer.
    """

    name: str
    removed: int
    total: int

    @property
    def kept(self) -> int:
        """Weights that are not zero."""
        return self.total - self.removed

    @property
    def sparsity(self) -> float:
        """The removed fraction."""
        return self.removed / self.total


@dataclass(frozen=True)
class BlockSparsity:
    """The units of one block or mixture.

    Attributes:
        name: dotted name.
        part: `attention` (heads, or KV groups), `feed_forward` (neurons), `experts` or `layers`.
        removed: units of which the consumer reads nothing, experts that are never chosen, or layers
            that are passed by.
        total: all units; inside experts, those of all experts.
    """

    name: str
    part: str
    removed: int
    total: int


@dataclass(frozen=True)
class PruningReport:
    """A count of what is removed from a model.

    Attributes:
        layers: one entry for each prunable projection.
        blocks: one entry for each block, for each mixture, and for each stack that lost layers.
        parameters: number of all parameters of the model, embeddings and biases included.
    """

    layers: tuple[LayerSparsity, ...]
    blocks: tuple[BlockSparsity, ...]
    parameters: int

    @property
    def removed(self) -> int:
        """Prunable weights that are zero."""
        return sum(layer.removed for layer in self.layers)

    @property
    def prunable(self) -> int:
        """All prunable weights."""
        return sum(layer.total for layer in self.layers)

    @property
    def sparsity(self) -> float:
        """The removed fraction of the prunable weights."""
        return self.removed / self.prunable

    @property
    def share_of_parameters(self) -> float:
        """The removed fraction of all parameters."""
        return self.removed / self.parameters

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, with the totals."""
        totals = {
            "removed": self.removed,
            "prunable": self.prunable,
            "sparsity": self.sparsity,
            "share_of_parameters": self.share_of_parameters,
        }
        return {**asdict(self), **totals}

    def __str__(self) -> str:
        """Return a table with a line for each projection, and the totals."""
        console = Console(width=100, no_color=True)
        with console.capture() as text:
            console.print(self.table())
        return text.get().rstrip()

    def table(self) -> Table:
        """Return a table for `rich.print`."""
        caption = (
            f"{self.sparsity:.1%} of {self.prunable:,} prunable weights removed, "
            f"{self.share_of_parameters:.1%} of all {self.parameters:,} parameters"
        )
        table = Table("projection", caption=caption)
        for head in ("removed", "kept", "sparsity"):
            table.add_column(head, justify="right")
        for layer in self.layers:
            table.add_row(
                layer.name, f"{layer.removed:,}", f"{layer.kept:,}", f"{layer.sparsity:.1%}"
            )
        return table


def count_sparsity(model: nn.Module, holders: Iterable[Holder]) -> PruningReport:
    """Count the zeros in the projections of these blocks, and the removed units and experts."""
    holders = [h for h in holders if isinstance(h, Block) or h.obstacle is None]
    blocks = [holder for holder in holders if isinstance(holder, Block)]
    names = dict.fromkeys(name for block in blocks for name in block.modules)
    return PruningReport(
        layers=tuple(_count_layer(model, name) for name in names),
        blocks=(*(_count_units(model, holder) for holder in holders), *_count_layers(model)),
        parameters=sum(p.numel() for p in model.parameters()),
    )


def live_units(model: nn.Module, holder: Holder) -> Tensor:
    """Return boolean `(units,)` or `(experts, units)`: true where the consumer reads the unit.

    Only zero columns of the consumer make a unit dead. A head whose query or key is zero still
    averages its values, and a neuron whose weights are zero still outputs its bias. An expert is
    dead if its router never chooses it.
    """
    if isinstance(holder, Mixture):
        return ~pruned_experts(model.get_submodule(holder.router))
    return read_units(find_layer(model, holder.consumer.module), holder.consumer)


def _count_layer(model: nn.Module, name: str) -> LayerSparsity:
    weight = find_layer(model, name).weight.detach()
    return LayerSparsity(name, weight.numel() - count_nonzero(weight), weight.numel())


def _count_layers(model: nn.Module) -> list[BlockSparsity]:
    """Count the layers that are passed by in each stack that has some."""
    removed = Counter(name.rpartition(".")[0] for name in passed_layers(model))
    totals = {name: len(dict(model.get_submodule(name).named_children())) for name in removed}
    return [BlockSparsity(name, "layers", n, totals[name]) for name, n in removed.items()]


def _count_units(model: nn.Module, holder: Holder) -> BlockSparsity:
    live = live_units(model, holder)
    return BlockSparsity(holder.name, holder.part, int((~live).sum()), live.numel())
