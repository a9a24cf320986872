"""Splits a model into groups of parameters that are pruned together, each as small as it can be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from hf_td.anatomy import Anatomy, Block, parameter_names
from hf_td.ranking.sites import Site, UnitSite


@dataclass(frozen=True, kw_only=True)
class Group:
    """Blocks that share a parameter, or whose units are chosen together; mostly a single one.

    Attributes:
        blocks: of the group.
        sites: the sites in these blocks.
        parameters: dotted names of all parameters of the blocks.
    """

    blocks: tuple[Block, ...]
    sites: tuple[Site, ...]
    parameters: tuple[str, ...]


def groups_of(model: nn.Module, anatomy: Anatomy, sites: Iterable[Site]) -> list[Group]:
    """Return the groups of all blocks of a model, in the order of the blocks."""
    sites = list(sites)
    merged: list[dict[Block, set[str]]] = []
    for block in anatomy.blocks:
        own = {block: set(parameters_of(model, block))}
        for other in [o for o in merged if any(own[block] & names for names in o.values())]:
            merged.remove(other)
            own = other | own
        merged.append(own)
    return [_group(blocks, sites) for blocks in merged]


def _group(blocks: dict[Block, set[str]], sites: Iterable[Site]) -> Group:
    layers = {name for block in blocks for name in block.modules}
    names = dict.fromkeys(name for one in blocks.values() for name in sorted(one))
    inside = tuple(site for site in sites if site.name in layers)
    return Group(blocks=tuple(blocks), sites=inside, parameters=tuple(names))


def parameters_of(model: nn.Module, block: Block) -> list[str]:
    """List the parameters of the projections and of the companions of a block."""
    own = [name for module in block.modules for name in parameter_names(model, module)]
    return [*own, *(companion.parameter for companion in block.companions)]


def unit_sites(sites: Iterable[Site]) -> list[UnitSite]:
    """Return the sites that rank units."""
    return [site for site in sites if isinstance(site, UnitSite)]
