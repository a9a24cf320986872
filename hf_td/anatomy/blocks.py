"""What a reading of a model consists of: blocks, their projections, and their units."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from hf_td.modules.layouts import find_layer, linear_layout

Part = Literal["attention", "feed_forward"]
Role = Literal["q", "k", "v", "o", "gate", "up", "down"]


@dataclass(frozen=True, eq=False)
class Projection:
    """The features of one linear layer that belong to the units of a block.

    A fused layer occurs once for each of its roles, with different features.

    Attributes:
        module: dotted name of the linear layer; of the parameter, for a stack of experts.
        role: what the features are for.
        features: `(units, per_unit)` indices, of output features for a producer and of input
            features for a consumer; in a stack of experts, of each of them.
    """

    module: str
    role: Role
    features: Tensor

    @property
    def reads(self) -> bool:
        """Whether the projection consumes the units (its features are inputs)."""
        return self.role in ("o", "down")

    def feature_dim(self, model: nn.Module) -> int:
        """The dimension of the layer's weight that `features` index."""
        layout = linear_layout(find_layer(model, self.module))
        assert layout is not None
        return layout.fan_in_dim if self.reads else layout.unit_dim


@dataclass(frozen=True, eq=False)
class Companion:
    """Slices of a parameter outside of the projections that belong to the units of a block.

    T5's position bias, for instance, has one column for each head.

    Attributes:
        parameter: dotted name.
        dim: the dimension that runs over the units.
        features: `(units, per_unit)` indices along `dim`.
    """

    parameter: str
    dim: int
    features: Tensor


def features_on(part: Projection | Companion, device: torch.device) -> Tensor:
    """The indices of its features on a device, where they are sent but once."""
    sent = part.__dict__.setdefault("_features_on", {})
    if device not in sent:
        sent[device] = part.features.to(device)
    return sent[device]


@dataclass(frozen=True, eq=False)
class Block:
    """An attention or feed-forward block whose units can be taken out whole.

    Attributes:
        name: dotted path that its projections share.
        part: `attention` or `feed_forward`.
        units: number of heads (KV groups under grouped queries) or of neurons; of the neurons of
            each expert, in a module of experts.
        producers: q, k and v, or gate and up.
        consumer: o or down.
        companions: what else has a slice for each unit.
        obstacle: why the units cannot be dropped although their weights can; None if they can.
    """

    name: str
    part: Part
    units: int
    producers: tuple[Projection, ...]
    consumer: Projection
    companions: tuple[Companion, ...] = ()
    obstacle: str | None = None

    @property
    def projections(self) -> tuple[Projection, ...]:
        """Producers, then the consumer."""
        return (*self.producers, self.consumer)

    @property
    def modules(self) -> tuple[str, ...]:
        """Dotted names of the linear layers, each once."""
        return tuple(dict.fromkeys(p.module for p in self.projections))

    @property
    def layer(self) -> int | None:
        """Index of the layer that the block is in: the first number in its name."""
        return layer_index(self.name)


@dataclass(frozen=True, eq=False)
class Mixture:
    """A mixture of experts, which can be taken out whole.

    Attributes:
        name: dotted path that the router and the experts share.
        units: number of experts.
        chosen: how many of them each token goes to; so many have to stay. 0 if it is not known.
        router: dotted name of the module that chooses.
        experts: dotted name of the module that has the experts.
        slices: all parameters that have an entry for each expert.
        obstacle: why whole experts cannot be dropped; None if they can.
    """

    name: str
    units: int
    chosen: int
    router: str
    experts: str
    slices: tuple[Companion, ...]
    obstacle: str | None = None

    @property
    def part(self) -> Literal["experts"]:
        """What its units are."""
        return "experts"

    @property
    def layer(self) -> int | None:
        """Index of the layer that the mixture is in: the first number in its name."""
        return layer_index(self.name)


# What has units that can be taken out whole.
Holder = Block | Mixture


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A reading of a model.

    Attributes:
        blocks: in the order in which the model runs them.
        mixtures: of experts, in that order too.
        unclaimed: linear layers and stacks of experts that are in no block (embedding projections,
            heads, routers, ...).
        uncalled: linear layers of the base model that a forward never calls; patching them would do
            nothing.
        runs: dotted names of the modules whose forwards were read: the base model, or also those
            of its towers that it does not run on an example input.
        unread: towers of which no forward ran, with the reason.
    """

    blocks: tuple[Block, ...]
    mixtures: tuple[Mixture, ...] = field(default=())
    unclaimed: tuple[str, ...] = field(default=())
    uncalled: tuple[str, ...] = field(default=())
    runs: tuple[str, ...] = field(default=("",))
    unread: tuple[str, ...] = field(default=())

    @property
    def holders(self) -> tuple[Holder, ...]:
        """The blocks, then the mixtures."""
        return (*self.blocks, *self.mixtures)

    def tied(self, block: Block) -> tuple[Block, ...]:
        """The blocks that share a companion with `block`, itself included.

        The heads of all layers of a T5 stack read one position bias, so the same heads have to
        go in all of them.
        """
        shared = {companion.parameter for companion in block.companions}
        return tuple(
            other
            for other in self.blocks
            if other is block or shared & {c.parameter for c in other.companions}
        )


def layer_index(name: str) -> int | None:
    """The first number among the components of a dotted name, or None."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def pattern_of(name: str) -> str:
    """A dotted name with every index replaced, equal for the same place in every layer."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "#", name)


def spans(features: Tensor) -> bool:
    """Whether the features are 0, 1, 2, ... in order: a unit is then a slice, not an index."""
    return bool((features.flatten() == torch.arange(features.numel())).all())
