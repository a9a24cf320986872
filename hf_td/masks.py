"""Draws the masks of an update.

A mask is a pure function of (seed, update, site) and of the weights, so gradient accumulation,
activation checkpointing, other ranks and a resumed run see the same one with nothing saved.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from hf_td import functional
from hf_td.config import Rates, TargetedDropoutConfig
from hf_td.sites import Site


def draw(site: Site, config: TargetedDropoutConfig, rates: Rates, update: int) -> None:
    """Draw the mask of one site for one update, and give it to its layer."""
    if not rates.targeting or not rates.drop_rate:
        site.layer.keep = site.everything()
        return
    candidates = _candidates(site, config, rates.targeting)
    if config.draw == "element":
        candidates = site.spread(candidates).expand_as(site.layer.weight)
    generator = _generator(candidates.device, config.seed, update, site.index)
    keep = functional.keep_mask(candidates, rates.drop_rate, generator, rescale=config.rescale)
    site.layer.keep = keep if config.draw == "element" else site.spread(keep)


def _candidates(site: Site, config: TargetedDropoutConfig, targeting: float) -> Tensor:
    is_random = config.importance == "random"
    scores = random_scores(site, config.seed) if is_random else site.scores()
    return functional.candidate_mask(scores, targeting, site.dim)


def random_scores(site: Site, seed: int) -> Tensor:
    """Scores of a fixed random set: the same at every update, and when the model is pruned."""
    scores = site.scores()
    generator = _generator(scores.device, seed, -1, site.index)
    return torch.rand(scores.shape, generator=generator, device=scores.device)


def _generator(device: torch.device, *key: int) -> torch.Generator:
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "big", signed=True))
