"""Ranks what a patched model can drop, and sets the cut-offs of an update.

Cut-offs are a pure function of (seed, update, site) and of the weights. Gradient accumulation,
activation checkpointing, other ranks and a resumed run see the same ones with nothing saved.
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
from hf_td.ranking.sites import Site, batches


@torch.no_grad()
def set_cutoffs(
    sites: Sequence[Site], config: TargetedDropoutConfig, rates: Rates, update: int
) -> None:
    """Set what one update drops of all sites.

    Args:
        sites: of a patched model.
        config: how it was patched.
        rates: of the update.
        update: its number, which keys the draws.
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
    for site, cutoff in zip(weights, _of_weights(weights, rates.targeting), strict=True):
        set_buffer(site.layer, "cutoff", cutoff)
    for site, candidates in _unit_candidates(units, rates.targeting):
        if config.draw == "unit" and threshold < DRAW_LEVELS:  # whole units are drawn
            candidates = candidates & functional.is_drawn(candidates.shape, cut_of(site.layer).draw)
            set_buffer(site.layer, "draw", _all_dropped(cut_of(site.layer).draw))
        set_buffer(site.layer, "cutoff", unit_cutoffs(site, candidates))


def _draws(sites: Sequence[Site], seed: int, update: int, threshold: int) -> Iterator[Tensor]:
    """Yield the draw of each site; they are sent to each device at once."""
    numbers = [
        functional.draw_of(functional.draw_key(seed, update, site.index), threshold)
        for site in sites
    ]
    table = torch.tensor(numbers)
    devices = {site.layer.weight.device for site in sites}
    sent = {device: table.to(device, non_blocking=True).unbind() for device in devices}
    for place, site in enumerate(sites):
        yield sent[site.layer.weight.device][place]


def _all_dropped(draw: Tensor) -> Tensor:
    return torch.full_like(draw, DRAW_LEVELS)


def _of_weights(sites: Sequence[Any], targeting: float) -> list[Tensor]:
    """Return the cut-offs of single weights."""
    cuts = [cut_of(site.layer) for site in sites]
    ranked = [
        Ranked(site.layer.weight, rule_of(site.layer), cut.scale, cut.cutoff)
        for site, cut in zip(sites, cuts, strict=True)
    ]
    return kernels.cutoffs(ranked, targeting)


def _unit_candidates(sites: Sequence[Any], targeting: float) -> Iterator[tuple[Site, Tensor]]:
    """Yield each site with its candidates, boolean, of the shape of its scores."""
    left = dict.fromkeys(sites)
    for alike in batches(sites):
        lowest = functional.candidate_mask(alike.scores(), targeting)
        for site, candidates in zip(alike.sites, lowest, strict=True):
            del left[site]
            yield site, candidates
    for site in left:
        scores = site.eligible(site.scores())
        yield site, functional.candidate_mask(scores, targeting, site.dim)


def unit_cutoffs(site: Site, dropped: Tensor) -> Tensor:
    """Return cut-offs that drop whole units: infinite for these, minus infinity for the others.

    Args:
        site: of units.
        dropped: boolean, of the shape of its scores.
    """
    limits = torch.full(dropped.shape, -torch.inf, device=dropped.device)
    return site.spread(limits.masked_fill_(dropped, torch.inf))


def first_cutoff(site: Site) -> Tensor:
    """Return cut-offs that drop nothing, in the shape of all that follow."""
    weight = site.layer.weight
    if site.kind == "weight":
        nothing = weight.detach().narrow(site.dim, 0, 1)
        wide = torch.promote_types(weight.dtype, torch.float32)
        return torch.full_like(nothing, -torch.inf, dtype=wide)
    return unit_cutoffs(
        site, torch.zeros(site.ranked_shape, dtype=torch.bool, device=weight.device)
    )
