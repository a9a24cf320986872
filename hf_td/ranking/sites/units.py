"""Sites of heads or neurons, ranked inside each block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_td import functional
from hf_td.anatomy import Block
from hf_td.functional import Rule
from hf_td.ranking import importance
from hf_td.ranking.activations import Activations
from hf_td.ranking.importance import Member
from hf_td.ranking.sites.site import Cost, Kind
from hf_td.ranking.sites.slices import Slice, by_feature, clear

# Name and layer of a consumer, and the input features of each of its units, `(units, per_unit)`.
Consumer = tuple[str, Any, Tensor]


@dataclass(frozen=True, eq=False)
class UnitSite:
    """The heads or neurons of a block. A unit is dropped at its consumer's input.

    Attributes:
        name: dotted name of the consumer.
        layer: the consumer: a linear layer, or the stack of such layers of all experts.
        index: the number of the site in its model, which keys its draws; tied blocks share it.
        block: the reading of the units.
        members: the producers of the units in this and all tied blocks, which therefore choose the
            same units.
        consumers: the consumers of this and all tied blocks.
        activations: scale the scores; None for plain norms.
        given: scores from elsewhere, in place of those computed from the weights.
        random_key: of fixed random scores, in place of those computed from the weights.
    """

    kind: ClassVar[Kind] = "unit"

    name: str
    layer: Any
    index: int
    block: Block
    members: tuple[Member, ...]
    consumers: tuple[Consumer, ...]
    activations: Activations | None = None
    given: Tensor | None = None
    random_key: int | None = None

    @cached_property
    def arrangement(self) -> Any:
        """The features of each unit in the block's layers, in a form that can be compared."""
        parts = [self.block.consumer, *(projection for _, projection in self.members)]
        return tuple((tuple(p.features.shape), p.features.numpy().tobytes()) for p in parts)

    @property
    def dim(self) -> int:
        """The dimension of `scores` along which candidates are ranked."""
        return -1

    @property
    def size(self) -> int:
        """The number of weights that the mask covers: those of the consumer."""
        return self.layer.weight.numel()

    @property
    def rule(self) -> Rule:
        """The rule of the consumer's weights, whose infinite cut-offs decide without scores."""
        return Rule(importance.fan_in_dim(self.layer))

    @property
    def ranked_shape(self) -> tuple[int, ...]:
        """The shape of the scores: `(units,)`, or `(experts, units)`."""
        return *self.layer.weight.shape[:-2], self.block.units

    def scores(self, *, wide: bool = False) -> Tensor:
        """Return `(units,)`, or `(experts, units)` where neurons are ranked inside each expert."""
        if self.given is not None:
            return self.given
        if self.random_key is not None:
            device = self.layer.weight.device
            return functional.random_scores(self.ranked_shape, self.random_key, device)
        return importance.unit_scores(self.members, self.scale(), wide=wide)

    def eligible(self, scores: Tensor) -> Tensor:
        """Return the scores: every unit can be removed."""
        return scores

    @property
    def most(self) -> float:
        """The largest fraction that can be removed."""
        return 1.0

    def scale(self) -> Tensor | None:
        """Return the root mean square of each unit's features over all tied blocks, `(units,)`.

        It is None if any of the consumers was not measured.
        """
        if self.activations is None:
            return None
        scales = [
            self.activations.scale(name, layer.weight.shape[importance.fan_in_dim(layer)])
            for name, layer, _ in self.consumers
        ]
        device = self.layer.weight.device
        squares = [
            scale.to(device)[features.to(device)].square().mean(1)
            for scale, (_, _, features) in zip(scales, self.consumers, strict=True)
            if scale is not None
        ]
        return torch.stack(squares).mean(0).sqrt() if len(squares) == len(scales) else None

    def to_weight(self, mask: Tensor) -> Tensor:
        """Return a mask over units as one over the consumer's inputs that broadcasts."""
        channels = self.layer.weight.shape[importance.fan_in_dim(self.layer)]
        by_channel = by_feature(mask, self.block.consumer, channels)
        return by_channel.unsqueeze(importance.unit_dim(self.layer) - self.layer.weight.dim())

    def parameters(self) -> Iterator[Tensor]:
        """Yield the tensors that `remove` writes to, a fused producer's once."""
        layers = {id(layer): layer for layer, _ in self.own_members}
        for layer in (*layers.values(), self.layer):
            yield layer.weight.data
        yield from (layer.bias.data for layer in layers.values() if layer.bias is not None)

    @property
    def own_members(self) -> tuple[Member, ...]:
        """The producers of the block itself, without those of tied blocks."""
        return tuple(member for member in self.members if member[1] in self.block.producers)

    def slices(self, chosen: Tensor) -> Iterator[Slice]:
        """Yield the chosen units' columns of the consumer, and their rows of the producers.

        Args:
            chosen: boolean, of the shape of the scores.
        """
        yield self.layer.weight, self.to_weight(chosen)
        for layer, projection in self.own_members:
            units = layer.weight.shape[importance.unit_dim(layer)]
            rows = by_feature(chosen, projection, units)
            yield layer.weight, rows.unsqueeze(importance.fan_in_dim(layer) - layer.weight.dim())
            if layer.bias is not None:
                yield layer.bias, rows

    def remove(self, chosen: Tensor) -> None:
        """Set the columns, rows and biases of the chosen units to zero.

        The consumer's columns alone remove a unit from the outputs of the model.
        """
        clear(self.slices(chosen))

    def mark_removed(self) -> None:
        """Do nothing: zeros are all that marks a removed unit."""

    @property
    def producers(self) -> tuple[Any, ...]:
        """The layers that produce the units, a fused layer once for each of its roles."""
        return tuple(layer for layer, _ in self.own_members)

    @property
    def weights_per_entry(self) -> int:
        """The number of weights in the producers' rows of a unit."""
        return sum(
            projection.features.shape[1] * layer.weight.shape[importance.fan_in_dim(layer)]
            for layer, projection in self.own_members
        )

    def sum_to_entries(self, values: Tensor) -> Tensor:
        """Sum values of the shape of the consumer's weight over the columns of each unit."""
        channels = values.sum(importance.unit_dim(self.layer))
        return channels[..., self.block.consumer.features.to(values.device)].sum(-1)

    def cost(self, length: int) -> Cost:
        """Return the cost of a unit.

        The parameters are the rows that produce the unit, with their biases, and the columns that
        read it. A weight takes two operations. A head takes two more for each score and for each
        value that it mixes.
        """
        width = self.block.consumer.features.shape[1]
        biases = sum(p.features.shape[1] * (m.bias is not None) for m, p in self.own_members)
        columns = width * self.layer.weight.shape[importance.unit_dim(self.layer)]
        parameters = self.weights_per_entry + biases + columns
        mixing = 4 * length * width if self.block.part == "attention" else 0
        return Cost(parameters=parameters, flops=2 * parameters + mixing)

    def contains(self, name: str) -> bool:
        """Return False: the layers of a unit are ranked as parts of this site alone."""
        return False
