"""Ranks the sites of a patched model, and sets the cut-offs and draws of an update.

Cut-offs are a pure function of the weights and the targeting, draws of (seed, update, site). So
every micro-batch, every rank and a resumed run compute the same mask, and nothing is saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from hf_td import functional, kernels
from hf_td.config import Rates, TargetedDropoutConfig
from hf_td.functional import DRAW_LEVELS
from hf_td.kernels import Ranked
from hf_td.patching.layers import cut_of, rule_of, set_buffer
from hf_td.ranking.sites import Site, group_by_shape


@torch.no_grad()
def set_cutoffs(
    sites: Sequence[Site], config: TargetedDropoutConfig, rates: Rates, update: int
) -> None:
    """Set the cut-offs and draws of one update in the layers of all sites.

    Args:
        sites: the sites of a patched model.
        config: the settings of the patch.
        rates: the rates of the update.
        update: the number of the update, which keys the draws.
    """
    is_dense = not rates.targeting or not rates.drop_rate
    threshold = 0 if is_dense else functional.drop_threshold(rates.drop_rate)
    draws = _draws(sites, config.seed, update, threshold)
    for site, draw in zip(sites, draws, strict=True):
        set_buffer(site.layer, "draw", draw)
    if is_dense:
        return
    weights = [site for site in sites if site.kind == "weight"]
    units = [site for site in sites if site.kind != "weight"]
    for site, cutoff in zip(weights, _weight_cutoffs(weights, rates.targeting), strict=True):
        set_buffer(site.layer, "cutoff", cutoff.to(_device(site)))
    for site, candidates in _unit_candidates(units, rates.targeting):
        candidates = candidates.to(_device(site))
        if config.draw == "unit" and threshold < DRAW_LEVELS:
            # Whole units are drawn here; the layer then drops all weights of the drawn units.
            draw = cut_of(site.layer).draw
            candidates = candidates & functional.is_drawn(candidates.shape, draw)
            set_buffer(site.layer, "draw", torch.full_like(draw, DRAW_LEVELS))
        set_buffer(site.layer, "cutoff", unit_cutoffs(site, candidates))


def _draws(sites: Sequence[Site], seed: int, update: int, threshold: int) -> Iterator[Tensor]:
    """Yield the draw of each site, with one transfer to each device."""
    numbers = [
        functional.draw_of(functional.draw_key(seed, update, site.index), threshold)
        for site in sites
    ]
    table = torch.tensor(numbers)
    devices = [_device(site) for site in sites]
    sent = {device: table.to(device, non_blocking=True).unbind() for device in set(devices)}
    for place, device in enumerate(devices):
        yield sent[device][place]


def _device(site: Site) -> torch.device:
    """Return the device that computes; shards of weights can be offloaded to another."""
    return cut_of(site.layer).draw.device


def _weight_cutoffs(sites: Sequence[Any], targeting: float) -> list[Tensor]:
    """Return the cut-offs of sites of single weights."""
    cuts = [cut_of(site.layer) for site in sites]
    ranked = [
        Ranked(site.layer.weight, rule_of(site.layer), cut.scale, cut.cutoff)
        for site, cut in zip(sites, cuts, strict=True)
    ]
    if not sites:
        return []
    return kernels.cutoffs(ranked, targeting, sites[0].over, sites[0].cap)


def _unit_candidates(sites: Sequence[Any], targeting: float) -> Iterator[tuple[Site, Tensor]]:
    """Yield each site with its candidates, boolean, in the shape of its scores."""
    single = dict.fromkeys(sites)
    for group in group_by_shape(sites):
        lowest = functional.candidate_mask(group.scores(), targeting)
        for site, candidates in zip(group.sites, lowest, strict=True):
            del single[site]
            yield site, candidates
    for site in single:
        scores = site.eligible(site.scores())
        yield site, functional.candidate_mask(scores, targeting, site.dim)


def unit_cutoffs(site: Site, dropped: Tensor) -> Tensor:
    """Return cut-offs that drop whole units: infinity for dropped units, minus infinity for kept.

    Args:
        site: a site of units or experts.
        dropped: boolean, in the shape of the site's scores.
    """
    limits = torch.full(dropped.shape, -torch.inf, device=dropped.device)
    return site.to_weight(limits.masked_fill_(dropped, torch.inf))


def first_cutoff(site: Site) -> Tensor:
    """Return cut-offs that drop nothing, in the shape and dtype of the later ones of this site."""
    weight = site.layer.weight
    if site.kind == "weight":
        row = weight.detach().narrow(site.dim, 0, 1)
        return torch.full_like(row, -torch.inf, dtype=torch.promote_types(row.dtype, torch.float32))
    none = torch.zeros(site.ranked_shape, dtype=torch.bool, device=weight.device)
    return unit_cutoffs(site, none)
