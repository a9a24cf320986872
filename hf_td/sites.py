"""What is ranked together: a site is a set of weights or units of which the lowest may go.

Training draws one mask for each site, pruning takes the lowest of each site out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from hf_td import functional, importance
from hf_td.activations import Activations
from hf_td.anatomy import Anatomy, Block, Companion, Holder, Mixture, Projection, find_layer
from hf_td.config import Neighbours, TargetedDropoutConfig, matches
from hf_td.importance import Member, members_of
from hf_td.kernels import Ranked
from hf_td.routing import Router, empty_rows, gone_experts, mark_gone

# A parameter, and a boolean mask of some of it, broadcastable to its shape.
Slice = tuple[Tensor, Tensor]

# Name and layer of a consumer, and the input features of each of its units, `(units, per_unit)`.
Consumer = tuple[str, Any, Tensor]


@dataclass(frozen=True, eq=False)
class WeightSite:
    """Ranks the weights of a layer inside each of its output units (paper, section 4.1).

    Attributes:
        name: dotted name of the layer.
        layer: the linear layer.
        index: the number of the site in its model, which keys its draws.
        activations: to scale the scores with, or None.
        given: scores from elsewhere, in place of those that are read off the weights.
        pattern: where only the lowest of each group of neighbours may go.
    """

    name: str
    layer: Any
    index: int
    activations: Activations | None = None
    given: Tensor | None = None
    pattern: Neighbours | None = None

    @property
    def dim(self) -> int:
        """The dimension of `scores` along which candidates are ranked."""
        return importance.fan_in_dim(self.layer)

    @property
    def size(self) -> int:
        """How many weights the mask is for."""
        return self.layer.weight.numel()

    def everything(self) -> Tensor:
        """The mask that drops nothing."""
        return torch.ones_like(self.layer.weight, dtype=torch.bool)

    def scores(self) -> Tensor:
        """Of the shape of the weight."""
        if self.given is not None:
            return self.given
        return importance.weight_scores(self.layer, self._activation())

    def eligible(self, scores: Tensor) -> Tensor:
        """The scores, infinite where the pattern lets nothing go."""
        if self.pattern is None:
            return scores
        may_go = functional.lowest_neighbours(scores, *self.pattern, self.dim)
        return scores.masked_fill(~may_go, torch.inf)

    @property
    def most(self) -> float:
        """The fraction that can go at most."""
        return 1.0 if self.pattern is None else self.pattern.share

    def ranked(self, key: int) -> Ranked:
        """What is ranked in an update whose draws are a function of `key`."""
        return Ranked(self.layer.weight, self.dim, self._activation(), key)

    def _activation(self) -> Tensor | None:
        """`(fan_in,)`: root mean square of the inputs."""
        return None if self.activations is None else self.activations.scale(self.name, self.layer)

    def spread(self, mask: Tensor) -> Tensor:
        """From what was ranked to what broadcasts to the weight: here the same."""
        return mask

    def parameters(self) -> Iterator[Tensor]:
        """What `remove` writes to."""
        yield self.layer.weight.data

    def slices(self, chosen: Tensor) -> Iterator[Slice]:
        """What belongs to the chosen weights: they themselves."""
        yield self.layer.weight, chosen

    def remove(self, chosen: Tensor) -> None:
        """Set the chosen weights to zero."""
        _clear(self.slices(chosen))


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
    """

    name: str
    layer: Any
    index: int
    block: Block
    members: tuple[Member, ...]
    consumers: tuple[Consumer, ...]
    activations: Activations | None = None
    given: Tensor | None = None

    @property
    def dim(self) -> int:
        """The dimension of `scores` along which candidates are ranked."""
        return -1

    @property
    def size(self) -> int:
        """How many weights the mask is for: the consumer's."""
        return self.layer.weight.numel()

    def everything(self) -> Tensor:
        """The mask that drops nothing."""
        weight = self.layer.weight
        units = torch.ones(*weight.shape[:-2], self.block.units, dtype=torch.bool)
        return self.spread(units.to(weight.device))

    def scores(self) -> Tensor:
        """`(units,)`, or `(experts, units)`: neurons are ranked inside each expert."""
        if self.given is not None:
            return self.given
        return importance.unit_scores(self.members, self._activation())

    def eligible(self, scores: Tensor) -> Tensor:
        """The scores: any unit may go."""
        return scores

    @property
    def most(self) -> float:
        """The fraction that can go at most."""
        return 1.0

    def _activation(self) -> Tensor | None:
        """`(units,)`: root mean square of the features of each unit, over all tied blocks."""
        if self.activations is None:
            return None
        scales = [self.activations.scale(name, layer) for name, layer, _ in self.consumers]
        squares = [
            scale[features.to(scale.device)].square().mean(1)
            for scale, (_, _, features) in zip(scales, self.consumers, strict=True)
            if scale is not None
        ]
        return torch.stack(squares).mean(0).sqrt() if len(squares) == len(scales) else None

    def spread(self, mask: Tensor) -> Tensor:
        """From units to the consumer's input features, broadcastable to its weight."""
        channels = self.layer.weight.shape[importance.fan_in_dim(self.layer)]
        by_channel = by_feature(mask, self.block.consumer, channels)
        return by_channel.unsqueeze(importance.unit_dim(self.layer) - self.layer.weight.dim())

    def parameters(self) -> Iterator[Tensor]:
        """What `remove` writes to; a fused producer occurs once."""
        layers = {id(layer): layer for layer, _ in self.own_members}
        for layer in (*layers.values(), self.layer):
            yield layer.weight.data
        yield from (layer.bias.data for layer in layers.values() if layer.bias is not None)

    @property
    def own_members(self) -> tuple[Member, ...]:
        """The producers of the block itself."""
        return tuple(member for member in self.members if member[1] in self.block.producers)

    def slices(self, chosen: Tensor) -> Iterator[Slice]:
        """What belongs to the chosen units: columns of the consumer, rows of the producers."""
        yield self.layer.weight, self.spread(chosen)
        for layer, projection in self.own_members:
            weight, dim = layer.weight, importance.fan_in_dim(layer)
            rows = by_feature(chosen, projection, weight.shape[importance.unit_dim(layer)])
            yield weight, rows.unsqueeze(dim - weight.dim())
            if layer.bias is not None:
                yield layer.bias, rows

    def remove(self, chosen: Tensor) -> None:
        """Set all that belongs to the chosen units to zero: no output of the model keeps a trace.

        The consumer's columns alone decide the outputs; the producers' rows and biases follow.
        """
        _clear(self.slices(chosen))


@dataclass(frozen=True, eq=False)
class ExpertSite:
    """Ranks the experts of a mixture, which go at their router: it does not choose them.

    Attributes:
        name: dotted name of the router.
        layer: the router.
        index: the number of the site in its model, which keys its draws.
        mixture: what the experts belong to.
        places: modules, and names of parameters in them, that have an entry for each expert.
        activations: to scale the scores with, or None.
        given: scores from elsewhere, none below zero, in place of those that are read off the
            weights.
    """

    name: str
    layer: Any
    index: int
    mixture: Mixture
    places: tuple[tuple[nn.Module, str], ...]
    activations: Activations | None = None
    given: Tensor | None = None

    @property
    def dim(self) -> int:
        """The dimension of `scores` along which candidates are ranked."""
        return 0

    @property
    def size(self) -> int:
        """How many weights the mask is for: all that the experts have."""
        return sum(weight.numel() for weight in self.weights)

    @property
    def most(self) -> float:
        """The fraction that can be asked for at most; as many as tokens need stay in any case."""
        return 1.0

    def eligible(self, scores: Tensor) -> Tensor:
        """The scores, infinite for as many of the highest as each token goes to: these stay."""
        return scores.index_fill(0, scores.topk(self.mixture.chosen).indices, torch.inf)

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """The 3-D parameters of the experts."""
        return tuple(parameter for parameter in self.parameters() if parameter.dim() == 3)

    def everything(self) -> Tensor:
        """The mask that drops nothing."""
        return torch.ones_like(self.layer.weight[:, 0], dtype=torch.bool)

    def scores(self) -> Tensor:
        """`(experts,)`: L2 norm of the weights of each expert; below all others if it is gone.

        With activations it is scaled with the root mean square of the weight that the router gives
        the expert.
        """
        own = importance.expert_scores(self.weights, self._activation())
        scores = own if self.given is None else self.given
        return scores.masked_fill(gone_experts(self.layer.module), -1)

    def _activation(self) -> Tensor | None:
        """`(experts,)`: root mean square of the weights."""
        known = self.activations
        return None if known is None else known.scale(self.name, self.layer.module)

    def spread(self, mask: Tensor) -> Tensor:
        """From what was ranked to what the router keeps: here the same."""
        return mask

    def parameters(self) -> Iterator[Tensor]:
        """What `remove` writes to."""
        yield from (module.get_parameter(name).data for module, name in self.places)

    def slices(self, chosen: Tensor) -> Iterator[Slice]:
        """What belongs to the chosen experts: their entries of the parameters."""
        for module, name in self.places:
            parameter = module.get_parameter(name)
            yield parameter, chosen.view(-1, *[1] * (parameter.dim() - 1)).to(parameter.device)

    def remove(self, chosen: Tensor) -> None:
        """Set all that belongs to the chosen experts to zero, and let the router leave them out."""
        _clear(self.slices(chosen))
        self.settle()

    def settle(self) -> None:
        """Let the router leave out just those experts that are zero now."""
        mark_gone(self.layer.module)


Site = WeightSite | UnitSite | ExpertSite


def _clear(slices: Iterator[Slice]) -> None:
    for parameter, mask in slices:
        parameter.data.masked_fill_(mask, 0)


def by_feature(mask: Tensor, slices: Projection | Companion, size: int) -> Tensor:
    """A mask over units as one over the features of a parameter, zero for what is not of them.

    Args:
        mask: `(..., units)`.
        slices: whose features belong to the units.
        size: the number of all features of its parameter.

    Returns:
        `(..., size)`, of the type of the mask.
    """
    spread = torch.zeros(*mask.shape[:-1], size, dtype=mask.dtype, device=mask.device)
    spread[..., slices.features.to(mask.device)] = mask.unsqueeze(-1)
    return spread


def plan_sites(
    model: nn.Module,
    anatomy: Anatomy,
    config: TargetedDropoutConfig,
    activations: Activations | None = None,
) -> tuple[Site, ...]:
    """What a configuration selects of a model, in the order in which the model runs it.

    With activations, which may still be to come, importance is by activation.

    Raises:
        ValueError: nothing, or not everything that is named, is there; or units that are
            selected cannot be dropped; or a pattern does not fit a layer.
    """
    _check_patterns(anatomy, config)
    if config.experts_level != "none" and all(m.chosen == m.units for m in anatomy.mixtures):
        raise ValueError(
            f"experts_level='unit' is for mixtures of experts, and {type(model).__name__} has none "
            "with more experts than each token goes to"
        )
    makers: dict[tuple[type[Holder], str], Callable[[_Plan, Any], Iterator[Site]]] = {
        (Block, "weight"): _weight_sites,
        (Block, "unit"): _unit_sites,
        (Mixture, "unit"): _expert_sites,
    }
    plan = _Plan(model, anatomy, config, activations)
    sites: dict[str, Site] = {}
    for holder in anatomy.holders:
        make = makers.get((type(holder), config.level_of(holder.part)))
        for site in make(plan, holder) if make else ():
            sites.setdefault(site.name, site)
    if not sites:
        raise ValueError(_nothing_to_patch(model, anatomy, config))
    return tuple(sites.values())


@dataclass(frozen=True, eq=False)
class _Plan:
    """What sites are made from."""

    model: nn.Module
    anatomy: Anatomy
    config: TargetedDropoutConfig
    activations: Activations | None

    @cached_property
    def index(self) -> dict[str, int]:
        """The number of each projection in its model, which does not depend on what is selected."""
        names = dict.fromkeys(_names(self.anatomy))
        return {name: number for number, name in enumerate(names)}


def _weight_sites(plan: _Plan, block: Block) -> Iterator[WeightSite]:
    for name in block.modules:
        if plan.config.selects(name, block.layer):
            layer, pattern = find_layer(plan.model, name), plan.config.neighbours
            if pattern is not None:
                _check_divides(name, layer, pattern)
            yield WeightSite(name, layer, plan.index[name], plan.activations, pattern=pattern)


def _check_divides(name: str, layer: Any, pattern: Neighbours) -> None:
    fan_in = layer.weight.shape[importance.fan_in_dim(layer)]
    if fan_in % pattern.of:
        raise ValueError(
            f"{name} has {fan_in} inputs, which cannot be split into groups of {pattern.of} "
            f"neighbours; leave it out by exclude=[{name!r}], or take another pattern"
        )


def _unit_sites(plan: _Plan, block: Block) -> Iterator[UnitSite]:
    name = block.consumer.module
    if not plan.config.selects(name, block.layer):
        return
    if block.obstacle:
        raise ValueError(
            f"the units of {block.name} cannot be dropped: {block.obstacle}; "
            f"use level='weight', or exclude=[{name!r}]"
        )
    tied = plan.anatomy.tied(block)
    members = tuple(member for other in tied for member in members_of(plan.model, other))
    consumers = tuple(_consumer(plan.model, other) for other in tied)
    index = plan.index[tied[0].consumer.module]
    layer = find_layer(plan.model, name)
    yield UnitSite(name, layer, index, block, members, consumers, plan.activations)


def _expert_sites(plan: _Plan, mixture: Mixture) -> Iterator[ExpertSite]:
    name = mixture.router or mixture.experts
    if not plan.config.selects(name, mixture.layer) or mixture.chosen == mixture.units:
        return
    if mixture.obstacle:
        raise ValueError(
            f"the experts of {mixture.name} cannot be dropped: {mixture.obstacle}; "
            f"use experts_level='none', or exclude=[{name!r}]"
        )
    router = Router(plan.model.get_submodule(name))
    _check_router(name, router)
    names = (piece.parameter.rpartition(".") for piece in mixture.slices)
    places = tuple((plan.model.get_submodule(path), leaf) for path, _, leaf in names)
    yield ExpertSite(name, router, plan.index[name], mixture, places, plan.activations)


def _check_router(name: str, router: Router) -> None:
    """Refuse a router that cannot leave experts out, or whose own zeros would be marks."""
    if "forward" in router.module.__dict__:
        raise TypeError(
            f"cannot target {name}: its forward was replaced on the instance, as device_map hooks "
            "and kernel patches do, so that no expert can be left out; load the model without them"
        )
    empty = empty_rows(router.weight) & ~gone_experts(router.module)
    if empty.any():
        raise ValueError(
            f"{int(empty.sum())} of the {len(empty)} rows of {name} are all zeros, which is how "
            "experts are marked as gone; initialise the router, or leave it out by "
            f"exclude=[{name!r}]"
        )


def _consumer(model: nn.Module, block: Block) -> Consumer:
    name = block.consumer.module
    return name, find_layer(model, name), block.consumer.features


def _names(anatomy: Anatomy) -> list[str]:
    """The names that patterns are about: of projections, and then of routers."""
    projections = [name for block in anatomy.blocks for name in block.modules]
    return [*projections, *(mixture.router or mixture.experts for mixture in anatomy.mixtures)]


def _check_patterns(anatomy: Anatomy, config: TargetedDropoutConfig) -> None:
    names = _names(anatomy)
    patterns = [p for p in (*config.include, *config.exclude) if p != "*"]
    idle = [p for p in patterns if not any(matches(name, (p,)) for name in names)]
    if names and idle:
        raise ValueError(f"the patterns {idle} match none of the projections: {_listed(names)}")
    layers = {holder.layer for holder in anatomy.holders}
    missing = sorted(set(config.layers or ()) - layers)
    if names and missing:
        raise ValueError(f"there are no layers {missing}; there are {sorted(layers, key=str)}")


def _nothing_to_patch(model: nn.Module, anatomy: Anatomy, config: TargetedDropoutConfig) -> str:
    name = type(model).__name__
    if anatomy.holders:
        found = _listed(_names(anatomy))
        return (
            f"nothing to target in {name}: include={list(config.include)}, "
            f"exclude={list(config.exclude)} and the levels select none of {found}"
        )
    return (
        f"nothing to target in {name}: found no attention or feed-forward block; its linear layers "
        f"are {_listed(anatomy.unclaimed) or 'none'}, of which a forward never calls "
        f"{_listed(anatomy.uncalled) or 'none'}"
    )


def _listed(names: Sequence[str], most: int = 12) -> str:
    """Names with the layer number as `*`, each once, cut after `most`."""
    patterns = dict.fromkeys(
        ".".join("*" if part.isdigit() else part for part in name.split(".")) for name in names
    )
    shown = ", ".join(list(patterns)[:most])
    return f"{shown}, ..." if len(patterns) > most else shown
