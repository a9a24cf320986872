"""Draws the masks of an update.

A mask is a pure function of (seed, update, site) and of the weights, so gradient accumulation,
activation checkpointing, other ranks and a resumed run see the same one with nothing saved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_td import functional, kernels
from hf_td.bundles import bundle_of
from hf_td.config import Rates, TargetedDropoutConfig
from hf_td.kernels import Drawn, Ranked
from hf_td.sites import Alike, Site, UnitSite, WeightSite, batches, unit_scores_of


def draw(sites: Sequence[Site], config: TargetedDropoutConfig, rates: Rates, update: int) -> None:
    """Draw the masks of all sites for one update, and give them to their layers."""
    if not rates.targeting or not rates.drop_rate:
        for site in sites:
            _give(site.layer, site.everything())
        return
    drawn = _by_kernels(sites, config, rates, update)
    together = {site: own.keep for site, own in drawn.items()} | _of_alike(sites, config, rates)
    for site in sites:
        known = together.get(site)
        _give(site.layer, _draw_one(site, config, rates, update) if known is None else known)
    for site, own in drawn.items():
        bundle = bundle_of(site.layer)
        if bundle is not None:
            bundle.prepare(site.layer, own)


def _give(layer: Any, keep: Tensor) -> None:
    """Set the mask of a layer, of a router or of a stack."""
    if isinstance(layer, nn.Module):
        # As an assignment does, without its checks, which take longer than a small mask.
        layer._buffers["keep"] = keep
    else:
        layer.keep = keep


def candidates(
    sites: Sequence[Site], config: TargetedDropoutConfig, targeting: float
) -> Iterator[tuple[Site, Tensor]]:
    """The candidates at a targeting in (0, 1): boolean, of the shape that each site ranks."""
    drawn = _by_kernels(sites, config, Rates(targeting, drop_rate=1.0))
    together = {site: ~own.keep for site, own in drawn.items()}
    for alike, lowest in _ranked_together(sites, config, targeting):
        together.update(zip(alike, lowest.unbind(), strict=True))
    for site in sites:
        known = together.get(site)
        yield site, _candidates(site, config, targeting) if known is None else known


def _by_kernels(
    sites: Sequence[Site], config: TargetedDropoutConfig, rates: Rates, update: int | None = None
) -> dict[Site, Drawn]:
    """The masks of the sites that kernels are for, all together, be it for no update."""
    plain = config.importance != "random" and not config.rescale
    suited = [s for s in sites if plain and isinstance(s, WeightSite) and s.pattern is None]
    ranked = [_ranked(site, config, rates, update) for site in suited]
    masks = kernels.keep_masks(ranked, rates.targeting, rates.drop_rate)
    return dict(zip(suited, masks, strict=True))


def _ranked(
    site: WeightSite, config: TargetedDropoutConfig, rates: Rates, update: int | None
) -> Ranked:
    # Of no use where every candidate is dropped, and there are many.
    key = 0 if rates.drop_rate == 1 else _key(config.seed, update, site.index)
    bundle = None if update is None else bundle_of(site.layer)
    return site.ranked(key, None if bundle is None else bundle.compute)


def _of_alike(
    sites: Sequence[Site], config: TargetedDropoutConfig, rates: Rates
) -> dict[Site, Tensor]:
    """The masks of units that are ranked together, where none is drawn."""
    if config.rescale or rates.drop_rate < 1:
        return {}
    return {
        site: keep
        for alike, lowest in _ranked_together(sites, config, rates.targeting)
        for site, keep in zip(alike, alike[0].spread(~lowest).unbind(), strict=True)
    }


def _ranked_together(
    sites: Sequence[Site], config: TargetedDropoutConfig, targeting: float
) -> Iterator[tuple[Alike, Tensor]]:
    """Sites that are alike, and which of their units are candidates, `(sites, units)`."""
    if config.importance != "random":
        for alike in batches(site for site in sites if isinstance(site, UnitSite)):
            yield alike, functional.candidate_mask(unit_scores_of(alike), targeting)


def _draw_one(site: Site, config: TargetedDropoutConfig, rates: Rates, update: int) -> Tensor:
    lowest = _candidates(site, config, rates.targeting)
    if config.draw == "element":
        lowest = site.spread(lowest).expand_as(site.layer.weight)
    generator = functional.generator(lowest.device, _key(config.seed, update, site.index))
    keep = functional.keep_mask(lowest, rates.drop_rate, generator, rescale=config.rescale)
    return keep if config.draw == "element" else site.spread(keep)


def _candidates(site: Site, config: TargetedDropoutConfig, targeting: float) -> Tensor:
    is_random = config.importance == "random"
    scores = random_scores(site, config.seed) if is_random else site.scores()
    return functional.candidate_mask(site.eligible(scores), targeting, site.dim)


def random_scores(site: Site, seed: int) -> Tensor:
    """Scores of a fixed random set: the same at every update, and when the model is pruned."""
    scores = site.scores()
    generator = functional.generator(scores.device, _key(seed, -1, site.index))
    drawn = torch.rand(scores.shape, generator=generator, device=scores.device)
    return drawn.where(scores >= 0, -1)  # what is below zero is gone already


def _key(*parts: int | None) -> int:
    """A signed 64-bit integer that is a function of some numbers."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
