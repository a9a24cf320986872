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

from hf_td import functional
from hf_td.config import Rates, TargetedDropoutConfig
from hf_td.kernels import Drawn, Order, Ranking
from hf_td.patching.bundles import bundle_of
from hf_td.ranking.sites import Alike, Site, Slice, UnitSite, WeightSite, batches, unit_slices


class Masks:
    """Draws the masks of a model's sites.

    Args:
        sites: where masks are drawn.
        config: how.
    """

    def __init__(self, sites: Sequence[Site], config: TargetedDropoutConfig) -> None:
        self._sites, self._config = tuple(sites), config
        # Those that can be ranked together; the others are one by one.
        plain = config.importance != "random"
        weights = [s for s in sites if isinstance(s, WeightSite) and s.pattern is None]
        self._weights = weights if plain and not config.rescale else []
        self._units = [s for s in sites if plain and isinstance(s, UnitSite)]
        self._drawn: dict[Site, Tensor] = {}  # random scores, which are the same in all updates
        # What goes on from update to update, as long as the weights stay where they are.
        self._ranking: Ranking | None = None
        self._ranked_as: list[Any] = []
        self._batches: list[Alike] = []

    def __getstate__(self) -> dict[str, Any]:
        """For copies of a model, which prepare their own."""
        fresh = {"_drawn": {}, "_ranking": None, "_ranked_as": [], "_batches": []}
        return {**self.__dict__, **fresh}

    def draw(self, rates: Rates, update: int) -> None:
        """Draw the masks of all sites for one update, and give them to their layers."""
        if not rates.targeting or not rates.drop_rate:
            for site in self._sites:
                _give(site.layer, site.everything())
            return
        # Keys are of no use where every candidate is dropped, and there are many.
        draws = () if rates.drop_rate == 1 else [self._key(update, s) for s in self._weights]
        drawn = self._of_weights(Order(rates.targeting, rates.drop_rate, draws))
        together = {site: own.keep for site, own in drawn.items()} | self._of_units(rates)
        for site in self._sites:
            known = together.get(site)
            _give(site.layer, self._draw_one(site, rates, update) if known is None else known)
        for site, own in drawn.items():
            bundle = bundle_of(site.layer)
            if bundle is not None:
                bundle.prepare(site.layer, own)

    def candidates(self, targeting: float) -> Iterator[Slice]:
        """What belongs to the candidates at a targeting in (0, 1)."""
        drawn = self._of_weights(Order(targeting, masked=False))
        left = [site for site in self._sites if site not in drawn]
        for site, own in drawn.items():
            yield from site.slices(~own.keep)
        for alike, lowest in self._ranked_together(targeting):
            yield from unit_slices(alike, lowest)
            left = [site for site in left if site not in alike]
        for site in left:
            yield from site.slices(self._candidates(site, targeting))

    def _of_weights(self, order: Order) -> dict[Site, Drawn]:
        """The masks of those single weights that are ranked together."""
        every = [(site, bundle_of(site.layer)) for site in self._weights]
        asked = [(site, None if own is None else own.compute) for site, own in every]
        now = [_as_it_lies(*one) for one in asked]
        if self._ranking is None or now != self._ranked_as:
            self._ranking = Ranking([site.ranked(compute) for site, compute in asked])
            self._ranked_as = now
        return dict(zip(self._weights, self._ranking.draw(order), strict=True))

    def _of_units(self, rates: Rates) -> dict[Site, Tensor]:
        """The masks of units that are ranked together, where none is drawn."""
        if self._config.rescale or rates.drop_rate < 1:
            return {}
        return {
            site: keep
            for alike, lowest in self._ranked_together(rates.targeting)
            for site, keep in zip(alike, alike[0].spread(~lowest).unbind(), strict=True)
        }

    def _ranked_together(self, targeting: float) -> Iterator[tuple[tuple[UnitSite, ...], Tensor]]:
        """Sites that are alike, and which of their units are candidates, `(sites, units)`."""
        if not (self._batches and all(alike.is_current() for alike in self._batches)):
            self._batches = batches(self._units)
        for alike in self._batches:
            yield alike.sites, functional.candidate_mask(alike.scores(), targeting)

    def _draw_one(self, site: Site, rates: Rates, update: int) -> Tensor:
        lowest, config = self._candidates(site, rates.targeting), self._config
        if config.draw == "element":
            lowest = site.spread(lowest).expand_as(site.layer.weight)
        generator = functional.generator(lowest.device, self._key(update, site))
        keep = functional.keep_mask(lowest, rates.drop_rate, generator, rescale=config.rescale)
        return keep if config.draw == "element" else site.spread(keep)

    def _candidates(self, site: Site, targeting: float) -> Tensor:
        scores = self._random(site) if self._config.importance == "random" else site.scores()
        return functional.candidate_mask(site.eligible(scores), targeting, site.dim)

    def _random(self, site: Site) -> Tensor:
        """As `random_scores`, drawn once and no more."""
        scores, known = site.scores(), self._drawn.get(site)
        if known is None or known.device != scores.device:
            known = self._drawn[site] = _random_like(scores, self._config.seed, site)
        return _without_gone(known, scores)

    def _key(self, update: int, site: Site) -> int:
        return _key(self._config.seed, update, site.index)


def _as_it_lies(site: WeightSite, compute: torch.dtype | None) -> Any:
    """What a `Ranking` is prepared for, as something to compare; it keeps the weight and its id."""
    weight, activations = site.layer.weight, site.activations
    version = None if activations is None else activations.version
    return id(weight), weight.data_ptr(), weight.dtype, compute, version


def _give(layer: Any, keep: Tensor) -> None:
    """Set the mask of a layer, of a router or of a stack."""
    if isinstance(layer, nn.Module):
        # As an assignment does, without its checks, which take longer than a small mask.
        layer._buffers["keep"] = keep
    else:
        layer.keep = keep


def random_scores(site: Site, seed: int) -> Tensor:
    """Scores of a fixed random set: the same at every update, and when the model is pruned."""
    scores = site.scores()
    return _without_gone(_random_like(scores, seed, site), scores)


def _random_like(scores: Tensor, seed: int, site: Site) -> Tensor:
    """Drawn on the CPU: a model may be pruned on another device than it was trained on."""
    cpu = torch.device("cpu")
    generator = functional.generator(cpu, _key(seed, -1, site.index))
    return torch.rand(scores.shape, generator=generator).to(scores.device)


def _without_gone(drawn: Tensor, scores: Tensor) -> Tensor:
    """The lowest of all for what is gone already."""
    return drawn.masked_fill(scores.isneginf(), -torch.inf)


def _key(*parts: int) -> int:
    """A signed 64-bit integer that is a function of some numbers."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
