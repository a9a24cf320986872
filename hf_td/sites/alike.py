"""Scores of many blocks that are alike, at once.

A model has a few kinds of blocks, and many of each. To rank them one by one takes a GPU no time,
and Python as long as a good part of a training step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from hf_td import importance, kernels
from hf_td.anatomy import features_on
from hf_td.sites.units import UnitSite

Alike = Sequence[UnitSite]


def batches(sites: Iterable[UnitSite]) -> list[Alike]:
    """The sites whose units can be scored together, those together that are alike.

    Left out are tied blocks, experts, and what has scores from elsewhere.
    """
    found: dict[Any, list[UnitSite]] = defaultdict(list)
    for site in sites:
        if len(site.consumers) == 1 and site.given is None and site.layer.weight.dim() == 2:
            found[_kind(site)].append(site)
    return list(found.values())


def _kind(site: UnitSite) -> Any:
    """What sites have in common that are alike."""
    layers = [site.layer, *(layer for layer, _ in site.members)]
    weights = [layer.weight for layer in layers]
    stored = tuple((type(w), w.shape, w.stride(), w.dtype, w.device) for w in weights)
    return site.arrangement, importance.fan_in_dim(site.layer), stored


def unit_scores_of(alike: Alike) -> Tensor:
    """The scores of sites that are alike, `(sites, units)`; see `UnitSite.scores`."""
    first = alike[0]
    sums: dict[int, Tensor] = {}  # a fused producer is read once, for all its roles
    squares: list[Tensor] = []
    for place, (layer, projection) in enumerate(first.members):
        if id(layer) not in sums:
            weights = [site.members[place][0].weight.detach() for site in alike]
            sums[id(layer)] = kernels.sums_of_squares(weights, importance.fan_in_dim(layer))
        rows = sums[id(layer)]
        squares.append(rows[:, features_on(projection, rows.device)].sum(-1))
    norms = torch.stack(squares).sum(0).sqrt()
    scales = _activations(alike)
    return norms if scales is None else norms * scales


def _activations(alike: Alike) -> Tensor | None:
    """`(sites, units)`: root mean square of what each unit hands on, None where nothing is known.

    Of a site of which nothing is known it is 1.
    """
    features = alike[0].layer.weight.shape[importance.fan_in_dim(alike[0].layer)]
    scales = [
        None if site.activations is None else site.activations.scale(site.name, features)
        for site in alike
    ]
    device = alike[0].layer.weight.device
    if all(scale is None for scale in scales):
        return None
    ones = torch.ones(features, device=device)
    every = torch.stack([ones if scale is None else scale.to(device) for scale in scales])
    of_units = features_on(alike[0].block.consumer, device)
    return every[:, of_units].square().mean(-1).sqrt()
