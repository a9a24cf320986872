"""The parts of a reading: blocks and mixtures, their projections and their units."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from hf_td.anatomy.depth import Depth
from hf_td.modules.layouts import find_layer, linear_layout

Part = Literal["attention", "feed_forward"]
Role = Literal["q", "k", "v", "o", "gate", "up", "down"]


@dataclass(frozen=True, eq=False)
class Projection:
    """The features of one linear layer that belong to the units of a block.

    A fused layer has one projection for each of its roles, with different features.

    Attributes:
        module: dotted name of the linear layer, or of the parameter of a stack of experts.
        role: role of the features in the block.
        features: `(units, per_unit)` indices of output features for a producer, of input features
            for a consumer. A stack has these features in each of its experts.
    """

    module: str
    role: Role
    features: Tensor

    @property
    def reads(self) -> bool:
        """True for a consumer, whose features are inputs."""
        return self.role in ("o", "down")

    def feature_dim(self, model: nn.Module) -> int:
        """Return the dimension of the layer's weight that `features` index."""
        layout = linear_layout(find_layer(model, self.module))
        assert layout is not None
        return layout.fan_in_dim if self.reads else layout.unit_dim


@dataclass(frozen=True, eq=False)
class Companion:
    """Slices of a parameter outside of the projections, one for each unit of a block.

    T5's position bias, for instance, has one column for each head.

    Attributes:
        parameter: dotted name of the parameter.
        dim: the dimension that runs over the units.
        features: `(units, per_unit)` indices along `dim`.
    """

    parameter: str
    dim: int
    features: Tensor


def features_on(part: Projection | Companion, device: torch.device) -> Tensor:
    """Return the features of a part on a device; they are copied there once."""
    sent = part.__dict__.setdefault("_features_on", {})
    if device not in sent:
        sent[device] = part.features.to(device)
    return sent[device]


@dataclass(frozen=True, eq=False)
class Block:
    """An attention or feed-forward block whose units can be taken out whole.

    Attributes:
        name: dotted path that its projections have in common.
        part: `attention` or `feed_forward`.
        units: number of heads (KV groups under grouped queries) or of neurons. In a module of
            experts, number of neurons per expert.
        producers: q, k and v, or gate and up.
        consumer: o or down.
        companions: other parameters that have a slice for each unit.
        obstacle: reason why only weights can be dropped, not units; None if units can.
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
        """Index of the block's layer: the first number in its name."""
        return layer_index(self.name)


@dataclass(frozen=True, eq=False)
class Mixture:
    """A mixture of experts, which can be taken out whole.

    Attributes:
        name: dotted path that the router and the experts have in common.
        units: number of experts.
        chosen: number of experts per token, the least that a model can keep; 0 if unknown.
        router: dotted name of the router.
        experts: dotted name of the module of experts.
        slices: all parameters that have an entry for each expert.
        obstacle: reason why whole experts cannot be dropped; None if they can.
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
        """The kind of its units."""
        return "experts"

    @property
    def layer(self) -> int | None:
        """Index of the mixture's layer: the first number in its name."""
        return layer_index(self.name)


@dataclass(frozen=True, eq=False)
class LayerStack:
    """A stack of layers, each of which can be taken out whole.

    Attributes:
        name: dotted name of the `ModuleList`.
        units: number of layers.
        depth: the field of the config that says this number; None if there is none.
        fixed: layers that have to stay, with the reason.
        run: dotted name of the module that is run to compare outputs, "" for the model.
        obstacle: reason why no layer can be taken out; None if some can.
    """

    name: str
    units: int
    depth: Depth | None = None
    fixed: Mapping[int, str] = field(default_factory=dict)
    run: str = ""
    obstacle: str | None = None


# Anything whose units can be taken out whole.
Holder = Block | Mixture


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A reading of a model.

    Attributes:
        blocks: attention and feed-forward blocks, in the order in which the model runs them.
        mixtures: mixtures of experts, in the same order.
        unclaimed: linear layers and stacks of experts that are in no block (embedding projections,
            heads, routers, ...).
        uncalled: linear layers of the base model that its forward never calls. Patching them would
            be a no-op.
        runs: dotted names of the modules whose forwards were read: the base model, and towers that
            it does not run on an example input.
        unread: modules whose forward did not run, with the reason.
        stacks: stacks of layers; empty until `with_stacks` reads them.
    """

    blocks: tuple[Block, ...]
    mixtures: tuple[Mixture, ...] = field(default=())
    unclaimed: tuple[str, ...] = field(default=())
    uncalled: tuple[str, ...] = field(default=())
    runs: tuple[str, ...] = field(default=("",))
    unread: tuple[str, ...] = field(default=())
    stacks: tuple[LayerStack, ...] = field(default=())

    @property
    def holders(self) -> tuple[Holder, ...]:
        """Blocks, then mixtures."""
        return (*self.blocks, *self.mixtures)

    def part_of(self, name: str) -> str:
        """Return the part that a projection, a router or a stack is of, by its dotted name."""
        if any(stack.name == name for stack in self.stacks):
            return "layers"
        names = ((b.part, b.modules) for b in self.blocks)
        return next((part for part, modules in names if name in modules), "experts")

    def tied(self, block: Block) -> tuple[Block, ...]:
        """Return the blocks that share a companion with `block`, including `block`.

        Tied blocks lose the same units: all layers of a T5 stack read one position bias, which has
        one column per head.
        """
        shared = {companion.parameter for companion in block.companions}
        return tuple(
            other
            for other in self.blocks
            if other is block or shared & {c.parameter for c in other.companions}
        )


def layer_index(name: str) -> int | None:
    """Return the first number among the components of a dotted name, or None."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def pattern_of(name: str) -> str:
    """Return a dotted name with `#` for every index: equal for the same place in every layer."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "#", name)
