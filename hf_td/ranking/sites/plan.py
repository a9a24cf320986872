"""The sites that a configuration selects in a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from hf_td import functional
from hf_td.anatomy import ONE_LAYER, Anatomy, Block, Holder, LayerStack, Mixture, find_layer
from hf_td.config import Neighbours, TargetedDropoutConfig, matches
from hf_td.modules.compact_layout import layout_of_model
from hf_td.modules.routing import Router, empty_rows, pruned_experts
from hf_td.ranking import importance
from hf_td.ranking.activations import Activations
from hf_td.ranking.importance import members_of
from hf_td.ranking.sites.advice import exclude, excluding, general, without_refused
from hf_td.ranking.sites.experts import ExpertSite
from hf_td.ranking.sites.layers import LayerSite, layer_site
from hf_td.ranking.sites.site import Site
from hf_td.ranking.sites.units import UnitSite
from hf_td.ranking.sites.weights import WeightSite


def plan_sites(
    model: nn.Module,
    anatomy: Anatomy,
    config: TargetedDropoutConfig,
    activations: Activations | None = None,
) -> tuple[Site, ...]:
    """Return the sites that a configuration selects in a model, in the order of its blocks.

    Args:
        model: the model that was read.
        anatomy: its reading.
        config: the settings.
        activations: scale the scores; they may be measured later. None for importance without
            activations.

    Raises:
        TypeError: a selected router cannot leave experts out.
        ValueError: a pattern or a layer matches nothing, nothing is selected, selected units
            cannot be dropped, or a group of neighbours does not divide the inputs of a layer.
    """
    _check_patterns(anatomy, config)
    if config.experts_level != "none" and all(m.chosen == m.units for m in anatomy.mixtures):
        raise ValueError(
            f"experts_level='unit' is for mixtures of experts, and {type(model).__name__} has none "
            "with more experts than each token goes to. Use experts_level='none'"
        )
    if config.layers_level != "none" and not anatomy.stacks:
        raise ValueError(
            f"layers_level='unit' is for models with stacks of layers, and {type(model).__name__} "
            "has none that a config describes. Use layers_level='none'"
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
    for stack in anatomy.stacks if config.layers_level == "unit" else ():
        sites.update((site.name, site) for site in _layer_sites(plan, stack))
    if not sites:
        raise ValueError(_nothing_to_patch(model, anatomy, config))
    return tuple(sites.values())


@dataclass(frozen=True, eq=False)
class _Plan:
    """The arguments of `plan_sites`, with the numbers and keys of sites."""

    model: nn.Module
    anatomy: Anatomy
    config: TargetedDropoutConfig
    activations: Activations | None

    @cached_property
    def index(self) -> dict[str, int]:
        """The number of each projection and router, whatever the configuration selects."""
        names = dict.fromkeys(_names(self.anatomy))
        return {name: number for number, name in enumerate(names)}

    def random_key(self, index: int) -> int | None:
        """Return the key of a site's random scores, equal in training and in pruning, or None."""
        random = self.config.importance == "random"
        return functional.draw_key(self.config.seed, -1, index) if random else None


def _weight_sites(plan: _Plan, block: Block) -> Iterator[WeightSite]:
    for name in block.modules:
        if plan.config.selects(name, block.layer):
            layer, pattern = find_layer(plan.model, name), plan.config.neighbours
            if pattern is not None:
                _check_divides(plan, name, pattern)
            yield WeightSite(
                name,
                layer,
                plan.index[name],
                plan.activations,
                pattern=pattern,
                random_key=plan.random_key(plan.index[name]),
                over=plan.config.rank_over,
                cap=plan.config.matrix_cap,
            )


def _check_divides(plan: _Plan, name: str, pattern: Neighbours) -> None:
    fan_in = _inputs(plan.model, name)
    if fan_in % pattern.of:
        names = dict.fromkeys(n for block in plan.anatomy.blocks for n in block.modules)
        uneven = [n for n in names if _inputs(plan.model, n) % pattern.of]
        raise ValueError(
            f"the {fan_in} inputs of {name} cannot be split into groups of {pattern.of} "
            f"neighbours. Use another pattern, or {excluding(uneven, names, plan.config)}"
        )


def _inputs(model: nn.Module, name: str) -> int:
    layer: Any = find_layer(model, name)
    return layer.weight.shape[importance.fan_in_dim(layer)]


def _unit_sites(plan: _Plan, block: Block) -> Iterator[UnitSite]:
    name = block.consumer.module
    if not plan.config.selects(name, block.layer):
        return
    if block.units == 1 and layout_of_model(plan.model) is not None:
        return  # the last unit of a block in a compact model cannot be dropped
    if block.obstacle:
        raise ValueError(
            f"the units of {block.name} cannot be dropped: {block.obstacle}. "
            f"{without_refused(plan.anatomy, plan.config)}"
        )
    tied = plan.anatomy.tied(block)
    members = tuple(member for other in tied for member in members_of(plan.model, other))
    ends = [other.consumer for other in tied]
    consumers = tuple((p.module, find_layer(plan.model, p.module), p.features) for p in ends)
    index = plan.index[tied[0].consumer.module]
    layer = find_layer(plan.model, name)
    random_key = plan.random_key(index)
    yield UnitSite(
        name, layer, index, block, members, consumers, plan.activations, random_key=random_key
    )


def _expert_sites(plan: _Plan, mixture: Mixture) -> Iterator[ExpertSite]:
    name = mixture.router or mixture.experts
    if not plan.config.selects(name, mixture.layer) or mixture.chosen == mixture.units:
        return
    if mixture.obstacle:
        raise ValueError(
            f"the experts of {mixture.name} cannot be dropped: {mixture.obstacle}. "
            f"{without_refused(plan.anatomy, plan.config)}"
        )
    router = Router(plan.model.get_submodule(name))
    _check_router(plan, name, router)
    names = (piece.parameter.rpartition(".") for piece in mixture.slices)
    places = tuple((plan.model.get_submodule(path), leaf) for path, _, leaf in names)
    index = plan.index[name]
    random_key = plan.random_key(index)
    yield ExpertSite(name, router, index, mixture, places, plan.activations, random_key=random_key)


def _layer_sites(plan: _Plan, stack: LayerStack) -> Iterator[LayerSite]:
    config = plan.config
    selected = matches(stack.name, config.include) and not matches(stack.name, config.exclude)
    if not selected or stack.obstacle == ONE_LAYER:
        return
    if stack.obstacle is not None:
        raise ValueError(
            f"the layers of {stack.name} cannot be dropped: {stack.obstacle}. "
            f"Use {exclude([stack.name], [], config)}, or layers_level='none'"
        )
    others = () if config.layers is None else set(range(stack.units)) - {*config.layers}
    index = plan.index[stack.name]
    random_key = plan.random_key(index)
    yield layer_site(
        plan.model,
        stack,
        index,
        kept=others,
        activations=plan.activations,
        random_key=random_key,
    )


def _check_router(plan: _Plan, name: str, router: Router) -> None:
    """Raise if a router cannot leave experts out, or has rows of zeros, which mark experts.

    Raises:
        TypeError: its forward was replaced.
        ValueError: rows of experts that were not pruned are zero.
    """
    if "forward" in router.module.__dict__:
        raise TypeError(
            f"cannot target {name}: its forward was replaced on the instance, as device_map hooks "
            "and kernel patches do. No expert could be left out. Load the model without them"
        )
    if unmarked := _unmarked_rows(router):
        routers = [mixture.router for mixture in plan.anatomy.mixtures if mixture.router]
        failing = [n for n in routers if _unmarked_rows(Router(plan.model.get_submodule(n)))]
        raise ValueError(
            f"{unmarked} of the {len(router.weight)} rows of {name} are all zeros, which marks "
            f"pruned experts. Initialise them, or {excluding(failing, plan.index, plan.config)}"
        )


def _unmarked_rows(router: Router) -> int:
    """Return the number of rows of zeros that are not of pruned experts."""
    return int((empty_rows(router.weight) & ~pruned_experts(router.module)).sum())


def _names(anatomy: Anatomy) -> list[str]:
    """Return the names that patterns are matched with: projections, then routers and stacks."""
    projections = [name for block in anatomy.blocks for name in block.modules]
    routers = [mixture.router or mixture.experts for mixture in anatomy.mixtures]
    return [*projections, *routers, *(stack.name for stack in anatomy.stacks)]


def _check_patterns(anatomy: Anatomy, config: TargetedDropoutConfig) -> None:
    names = _names(anatomy)
    patterns = [p for p in (*config.include, *config.exclude) if p != "*"]
    unmatched = [p for p in patterns if not any(matches(name, (p,)) for name in names)]
    if names and unmatched:
        raise ValueError(
            f"the patterns {unmatched} match none of the projections: {_listed(names)}"
        )
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
            f"exclude={list(config.exclude)} and the levels select none of {found}. Include some "
            "of them, at a level that is not 'none'"
        )
    return (
        f"nothing to target in {name}: found no attention or feed-forward block; its linear layers "
        f"are {_listed(anatomy.unclaimed) or 'none'}. Layers that no forward calls: "
        f"{_listed(anatomy.uncalled) or 'none'}. Describe its blocks by register_family"
    )


def _listed(names: Sequence[str], most: int = 12) -> str:
    """Return names with `*` in place of layer numbers, each once, cut after `most`."""
    patterns = dict.fromkeys(general(name) for name in names)
    shown = ", ".join(list(patterns)[:most])
    return f"{shown}, ..." if len(patterns) > most else shown
