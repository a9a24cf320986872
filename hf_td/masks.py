"""Draws the masks of an update.

A mask is a pure function of (seed, update, site) and of the weights, so gradient accumulation,
activation checkpointing, other ranks and a resumed run see the same one with nothing saved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from hf_td import functional, kernels
from hf_td.config import Rates, TargetedDropoutConfig
from hf_td.sites import Site, WeightSite


def draw(sites: Sequence[Site], config: TargetedDropoutConfig, rates: Rates, update: int) -> None:
    """Draw the masks of all sites for one update, and give them to their layers."""
    by_weight = []
    for site in sites:
        if not rates.targeting or not rates.drop_rate:
            site.layer.keep = site.everything()
        elif isinstance(site, WeightSite) and _suits_kernels(site, config):
            by_weight.append(site)
        else:
            site.layer.keep = _draw_one(site, config, rates, update)
    ranked = [site.ranked(_key(config.seed, update, site.index)) for site in by_weight]
    keeps = kernels.keep_masks(ranked, rates.targeting, rates.drop_rate)
    for site, keep in zip(by_weight, keeps, strict=True):
        site.layer.keep = keep


def _suits_kernels(site: WeightSite, config: TargetedDropoutConfig) -> bool:
    return site.pattern is None and config.importance != "random" and not config.rescale


def _draw_one(site: Site, config: TargetedDropoutConfig, rates: Rates, update: int) -> Tensor:
    candidates = _candidates(site, config, rates.targeting)
    if config.draw == "element":
        candidates = site.spread(candidates).expand_as(site.layer.weight)
    generator = functional.generator(candidates.device, _key(config.seed, update, site.index))
    keep = functional.keep_mask(candidates, rates.drop_rate, generator, rescale=config.rescale)
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
