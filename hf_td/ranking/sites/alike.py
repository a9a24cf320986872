"""Blocks that are alike, scored at once.

A model has a few kinds of blocks, and many of each. To rank them one by one takes a GPU no time,
and Python as long as a good part of a training step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hf_td import kernels
from hf_td.anatomy import Projection, features_on
from hf_td.ranking import importance
from hf_td.ranking.sites.units import UnitSite


class _Reading(NamedTuple):
    """Producers whose weights have one shape, and are read together.

    Attributes:
        weights: of the first of them in all sites, of the second in all sites, and so on.
        dim: the dimension of each that runs over the inputs.
        roles: what the units have of them: which producer, and which of its features.
    """

    weights: list[Tensor]
    dim: int
    roles: list[tuple[int, Projection]]


class Alike:
    """Sites whose blocks differ in nothing but their weights.

    Args:
        sites: as `batches` puts them together.

    Attributes:
        sites: in the order in which `scores` has them.
    """

    def __init__(self, sites: Sequence[UnitSite]) -> None:
        self.sites = tuple(sites)

    @torch.no_grad()
    def scores(self) -> Tensor:
        """The scores of all, `(sites, units)`; see `UnitSite.scores`."""
        squares: list[Tensor] = []
        for weights, dim, roles in self._readings():
            rows = kernels.sums_of_squares(weights, dim)
            rows = rows.view(-1, len(self.sites), rows.shape[1])
            for place, projection in roles:
                squares.append(rows[place][:, features_on(projection, rows.device)].sum(-1))
        norms = torch.stack(squares).sum(0).sqrt()
        scale = self._activations()
        return norms if scale is None else norms * scale

    def _readings(self) -> list[_Reading]:
        readings: dict[Any, _Reading] = {}
        places: dict[int, int] = {}  # a fused producer is read once, for all its roles
        for number, (layer, projection) in enumerate(self.sites[0].members):
            dim = importance.fan_in_dim(layer)
            reading = readings.setdefault((*_stored(layer.weight), dim), _Reading([], dim, []))
            if id(layer) not in places:
                places[id(layer)] = len(reading.weights) // len(self.sites)
                reading.weights.extend(site.members[number][0].weight for site in self.sites)
            reading.roles.append((places[id(layer)], projection))
        return list(readings.values())

    def _activations(self) -> Tensor | None:
        """`(sites, units)`: root mean square of what each unit hands on; None if none is known.

        Of a site of which nothing is known it is 1.
        """
        layer = self.sites[0].layer
        features, device = layer.weight.shape[importance.fan_in_dim(layer)], layer.weight.device
        scales = [
            None if site.activations is None else site.activations.scale(site.name, features)
            for site in self.sites
        ]
        if all(scale is None for scale in scales):
            return None
        ones = torch.ones(features, device=device)
        every = [ones if scale is None else scale.to(ones.device) for scale in scales]
        of_units = features_on(self.sites[0].block.consumer, ones.device)
        return torch.stack(every)[:, of_units].square().mean(-1).sqrt()


def batches(sites: Iterable[Any]) -> list[Alike]:
    """The sites whose units can be scored together, those together that are alike.

    Left out are tied blocks, experts, and what has scores from elsewhere.
    """
    found: dict[Any, list[UnitSite]] = defaultdict(list)
    for site in sites:
        if not isinstance(site, UnitSite):
            continue
        if (
            len(site.consumers) == 1
            and site.given is None
            and site.random_key is None
            and site.layer.weight.dim() == 2
        ):
            found[_kind(site)].append(site)
    return [Alike(alike) for alike in found.values()]


def _kind(site: UnitSite) -> Any:
    """What sites have in common that are alike."""
    layers = [site.layer, *(layer for layer, _ in site.members)]
    stored = tuple((*_stored(layer.weight), importance.fan_in_dim(layer)) for layer in layers)
    return site.arrangement, stored


def _stored(weight: Tensor) -> tuple[Any, ...]:
    return type(weight), weight.shape, weight.stride(), weight.dtype, weight.device
