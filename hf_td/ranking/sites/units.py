"""The heads or neurons of a block, ranked against each other."""

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
    """Ranks the heads or neurons of a block, which go at their consumer's input.

    Attributes:
        name: dotted name of the consumer.
        layer: the consumer, a linear layer, or such a layer of all experts of a module.
        index: the number of the site in its model, which keys its draws; tied blocks share it.
        block: what the units belong to.
        members: the producers of the units; those of all tied blocks, so that the same units are
            chosen in each.
        consumers: names and layers of the consumers, in the same way.
        activations: to scale the scores with, or None.
        given: scores from elsewhere, in place of those that are read off the weights.
        random_key: of fixed random scores; None for scores that are read off the weights.
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
        """Which features of its layers belong to which unit, as something to compare."""
        parts = [self.block.consumer, *(projection for _, projection in self.members)]
        return tuple((tuple(p.features.shape), p.features.numpy().tobytes()) for p in parts)

    @property
    def dim(self) -> int:
        """The dimension of `scores` along which candidates are ranked."""
        return -1

    @property
    def size(self) -> int:
        """How many weights the mask is for: the consumer's."""
        return self.layer.weight.numel()

    @property
    def rule(self) -> Rule:
        """What the scores of the consumer's weights are: the cut-offs alone decide."""
        return Rule(importance.fan_in_dim(self.layer))

    @property
    def ranked_shape(self) -> tuple[int, ...]:
        """The shape of the scores: `(units,)`, or `(experts, units)`."""
        return *self.layer.weight.shape[:-2], self.block.units

    def scores(self) -> Tensor:
        """Return `(units,)`, or `(experts, units)`: neurons are ranked inside each expert."""
        if self.given is not None:
            return self.given
        if self.random_key is not None:
            device = self.layer.weight.device
            return functional.random_scores(self.ranked_shape, self.random_key, device)
        return importance.unit_scores(self.members, self.scale())

    def eligible(self, scores: Tensor) -> Tensor:
        """The scores: any unit may go."""
        return scores

    @property
    def most(self) -> float:
        """The fraction that can go at most."""
        return 1.0

    def scale(self) -> Tensor | None:
        """Return the root mean square of each unit's features over all tied blocks, `(units,)`."""
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

    def spread(self, mask: Tensor) -> Tensor:
        """Return a mask over units as one over the consumer's inputs, to broadcast."""
        channels = self.layer.weight.shape[importance.fan_in_dim(self.layer)]
        by_channel = by_feature(mask, self.block.consumer, channels)
        return by_channel.unsqueeze(importance.unit_dim(self.layer) - self.layer.weight.dim())

    def parameters(self) -> Iterator[Tensor]:
        """Yield what `remove` writes to; a fused producer occurs once."""
        layers = {id(layer): layer for layer, _ in self.own_members}
        for layer in (*layers.values(), self.layer):
            yield layer.weight.data
        yield from (layer.bias.data for layer in layers.values() if layer.bias is not None)

    @property
    def own_members(self) -> tuple[Member, ...]:
        """The producers of the block itself."""
        return tuple(member for member in self.members if member[1] in self.block.producers)

    def slices(self, chosen: Tensor) -> Iterator[Slice]:
        """Yield what belongs to the chosen units: columns of the consumer, rows of the producers.

        Args:
            chosen: boolean, of the shape of the scores.
        """
        yield self.layer.weight, self.spread(chosen)
        for layer, projection in self.own_members:
            units = layer.weight.shape[importance.unit_dim(layer)]
            rows = by_feature(chosen, projection, units)
            yield layer.weight, rows.unsqueeze(importance.fan_in_dim(layer) - layer.weight.dim())
            if layer.bias is not None:
                yield layer.bias, rows

    def remove(self, chosen: Tensor) -> None:
        """Set all that belongs to the chosen units to zero: no output of the model keeps a trace.

        The consumer's columns alone decide the outputs; the producers' rows and biases follow.
        """
        clear(self.slices(chosen))

    def mark_removed(self) -> None:
        """Do nothing: zeros are all that marks a removed unit."""

    @property
    def producers(self) -> tuple[Any, ...]:
        """The layers that produce the units; a fused layer occurs once for each of its roles."""
        return tuple(layer for layer, _ in self.own_members)

    @property
    def weights_per_entry(self) -> int:
        """The number of weights in the rows that produce a unit."""
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

        Its parameters are the rows that produce the unit, with their biases, and the columns that
        read it. Each weight takes two operations; a head takes two more for each score and for each
        mix of values.
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
