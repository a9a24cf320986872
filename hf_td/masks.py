"""Draws the masks of an update.

A mask is a pure function of (seed, update, site) and of the weights, so gradient accumulation,
activation checkpointing, other ranks and a resumed run see the same one with nothing saved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from hf_td import functional, kernels
from hf_td.config import Rates, TargetedDropoutConfig
from hf_td.sites import Site, WeightSite


def draw(sites: Sequence[Site], config: TargetedDropoutConfig, rates: Rates, update: int) -> None:
    """Draw the masks of all sites for one update, and give them to their layers."""
    if not rates.targeting or not rates.drop_rate:
        for site in sites:
            site.layer.keep = site.everything()
        return
    by_kernels = _by_kernels(sites, config, rates, update)
    for site in sites:
        known = by_kernels.get(site)
        site.layer.keep = _draw_one(site, config, rates, update) if known is None else known


def candidates(
    sites: Sequence[Site], config: TargetedDropoutConfig, targeting: float
) -> Iterator[tuple[Site, Tensor]]:
    """The candidates at a targeting in (0, 1): boolean, of the shape that each site ranks."""
    by_kernels = _by_kernels(sites, config, Rates(targeting, drop_rate=1.0), 0)
    for site in sites:
        kept = by_kernels.get(site)
        yield site, _candidates(site, config, targeting) if kept is None else ~kept


def _by_kernels(
    sites: Sequence[Site], config: TargetedDropoutConfig, rates: Rates, update: int
) -> dict[Site, Tensor]:
    """The masks of the sites that kernels are for, all together."""
    plain = config.importance != "random" and not config.rescale
    suited = [s for s in sites if plain and isinstance(s, WeightSite) and s.pattern is None]
    ranked = [site.ranked(_key(config.seed, update, site.index)) for site in suited]
    masks = kernels.keep_masks(ranked, rates.targeting, rates.drop_rate)
    return dict(zip(suited, masks, strict=True))


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


def _key(*parts: int) -> int:
    """A signed 64-bit integer that is a function of some numbers."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
