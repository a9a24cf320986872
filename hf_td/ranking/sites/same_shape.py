"""Units of sites whose blocks have the same shape, ranked in one pass.

A model has few shapes of blocks and many blocks of each. Ranking them one by one spends a good part
of a training step in Python.
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


class _Producers(NamedTuple):
    """Producers whose weights have one shape and are reduced in one call.

    Attributes:
        weights: of all sites: of the first producer in each site, then of the second, and so on.
        dim: the dimension of each weight that runs over the inputs.
        roles: pairs of a producer's number and its features that belong to the units.
    """

    weights: list[Tensor]
    dim: int
    roles: list[tuple[int, Projection]]


class SameShape:
    """Sites whose blocks are identical up to weights.

    Args:
        sites: one group of `group_by_shape`.

    Attributes:
        sites: in the order of the rows of `scores`.
    """

    def __init__(self, sites: Sequence[UnitSite]) -> None:
        self.sites = tuple(sites)

    @torch.no_grad()
    def scores(self) -> Tensor:
        """Return the scores of all sites, `(sites, units)`; see `UnitSite.scores`."""
        squares: list[Tensor] = []
        for weights, dim, roles in self._producers():
            rows = kernels.sums_of_squares(weights, dim)
            rows = rows.view(-1, len(self.sites), rows.shape[1])
            for number, projection in roles:
                squares.append(rows[number][:, features_on(projection, rows.device)].sum(-1))
        norms = torch.stack(squares).sum(0).sqrt()
        scale = self._scale()
        return norms if scale is None else norms * scale

    def _producers(self) -> list[_Producers]:
        by_shape: dict[Any, _Producers] = {}
        numbers: dict[int, int] = {}  # a fused producer is reduced once for all its roles
        for place, (layer, projection) in enumerate(self.sites[0].members):
            dim = importance.fan_in_dim(layer)
            group = by_shape.setdefault((*_storage(layer.weight), dim), _Producers([], dim, []))
            if id(layer) not in numbers:
                numbers[id(layer)] = len(group.weights) // len(self.sites)
                group.weights.extend(site.members[place][0].weight for site in self.sites)
            group.roles.append((numbers[id(layer)], projection))
        return list(by_shape.values())

    def _scale(self) -> Tensor | None:
        """Return the root mean square of each unit's activations, `(sites, units)`.

        It is 1 for a site without activations, and None if no site has any.
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


def group_by_shape(sites: Iterable[Any]) -> list[SameShape]:
    """Group the sites of units whose blocks are identical up to weights.

    Tied blocks, stacked experts and sites with given or random scores are left out.
    """
    groups: dict[Any, list[UnitSite]] = defaultdict(list)
    for site in sites:
        if not isinstance(site, UnitSite):
            continue
        if (
            len(site.consumers) == 1
            and site.given is None
            and site.random_key is None
            and site.layer.weight.dim() == 2
        ):
            groups[_shape(site)].append(site)
    return [SameShape(group) for group in groups.values()]


def _shape(site: UnitSite) -> Any:
    """Return everything about a site's block except its weights, to compare."""
    layers = [site.layer, *(layer for layer, _ in site.members)]
    stored = tuple((*_storage(layer.weight), importance.fan_in_dim(layer)) for layer in layers)
    return site.arrangement, stored


def _storage(weight: Tensor) -> tuple[Any, ...]:
    return type(weight), weight.shape, weight.stride(), weight.dtype, weight.device
