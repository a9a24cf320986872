"""Decides how much of each layer is removed for a given sparsity of the model.

Uniform: the same fraction of every layer, as in the paper. Global: one ranking over the whole
model. Layers that need less then keep less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeGuard, get_args

import torch
from torch import Tensor

from hf_td import functional, kernels
from hf_td.pruning.times import Times
from hf_td.ranking.sites import Site, UnitSite, WeightSite, scores_to_prune, tied_groups

Rule = Literal["uniform", "global"]
Currency = Literal["units", "parameters", "flops", "latency"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A rule for spending a sparsity.

    Attributes:
        kind: `uniform` takes the same fraction of every site, and of all sites of weights that are
            ranked over the model; `global` ranks all sites together, on scores that are divided by
            the root mean square of their site.
        of: the currency of a global sparsity: `units` (weights at the weight level), `parameters`,
            estimated `flops` of one token, or measured `latency`. With the latter, units of slow
            blocks are removed earlier than units of equal score in fast ones.
        floor: the fraction of each site that a global budget never takes, in [0, 1].
        length: the number of tokens that attention is assumed to look at, for `flops`.
        times: what `measure_times` returned, for `latency`.
    """

    kind: Rule = "uniform"
    of: Currency = "units"
    floor: float = 0.05
    length: int = 128
    times: Times | None = None

    def __post_init__(self) -> None:
        for name, choices in (("kind", get_args(Rule)), ("of", get_args(Currency))):
            if getattr(self, name) not in choices:
                got = getattr(self, name)
                raise ValueError(f"budget {name} must be one of {list(choices)}, got {got!r}")
        if not 0 <= self.floor <= 1:
            raise ValueError(f"budget floor is a fraction in [0, 1], got {self.floor}")
        if (self.of == "latency") != (self.times is not None):
            raise ValueError(
                "of='latency' spends measured times, and nothing else does. Pass both of them: "
                "of='latency', times=measure_times(model, batch=8, length=128)"
            )

    def choose(self, sites: Sequence[Site], sparsity: float) -> list[Tensor]:
        """Return a boolean mask for each site, of the shape of its scores: what to remove."""
        if self.kind == "global":
            return _choose_globally(sites, sparsity, self)
        together = [site for site in sites if _is_ranked_over_model(site)]
        budget = Budget(kind="global", floor=1 - together[0].cap) if together else self
        chosen = iter(_choose_globally(together, sparsity, budget) if together else ())
        return [
            next(chosen) if _is_ranked_over_model(site) else _lowest(site, sparsity)
            for site in sites
        ]


def _is_ranked_over_model(site: Site) -> TypeGuard[WeightSite]:
    return isinstance(site, WeightSite) and site.over == "model"


def _lowest(site: Site, sparsity: float) -> Tensor:
    scores = site.eligible(scores_to_prune(site))
    if isinstance(site, WeightSite) and site.over == "matrix":
        flat = scores.flatten(-2)
        lowest = kernels.candidate_mask(flat, sparsity, break_ties=True).view_as(scores)
    else:
        lowest = kernels.candidate_mask(scores, sparsity, site.dim, break_ties=True)
    # The sum is finite only if all scores are, and is far cheaper than a mask of infinite ones.
    return lowest if scores.sum().isfinite() else lowest & ~scores.isposinf()


def _choose_globally(sites: Sequence[Site], sparsity: float, budget: Budget) -> list[Tensor]:
    """Take the lowest scores of all sites until their cost is the wanted share of the total.

    Sites with one index are tied: their scores are equal, and their units are removed together.
    """
    _check_counted_once(sites)
    groups = tied_groups(sites)
    scores = [_comparable(tied[0], budget.floor) for tied in groups.values()]
    pairs = zip(groups.values(), scores, strict=True)
    costs = [_costs(tied, score, budget) for tied, score in pairs]
    if budget.of == "latency":
        scores = list(map(_per_time, scores, costs))
    chosen = dict(zip(groups, _affordable(scores, costs, sparsity), strict=True))
    return [chosen[site.index] for site in sites]


def _costs(tied: Sequence[Site], scores: Tensor, budget: Budget) -> Tensor:
    """Return the cost of each entry of tied sites, of the shape of the scores, float64, on the CPU.

    The time that a unit takes depends on how many others its block still has: entries are removed
    in the order of their scores.
    """
    if budget.times is None:
        each = sum(getattr(site.cost(budget.length), budget.of) for site in tied)
        return torch.full(scores.shape, each, dtype=torch.float64)
    curves = [budget.times.curve_of(_timed(site).block) for site in tied]
    saved = torch.stack([curve.by_count().diff().flip(0) for curve in curves]).sum(0)
    order = scores.cpu().argsort(stable=True)
    return torch.empty_like(saved).scatter_(0, order, saved)


_OTHERS = {"weight": "single weights", "layer": "layers", "expert": "experts"}


def _timed(site: Site) -> UnitSite:
    """Return the site, or raise ValueError if removing its entries makes no forward faster."""
    if isinstance(site, UnitSite) and len(site.ranked_shape) == 1:
        return site
    raise ValueError(
        f"of='latency' is for heads and neurons outside of experts, and {site.name} ranks "
        f"{_OTHERS.get(site.kind, 'the neurons of experts')}. Use level='unit' and leave these "
        "out, or another currency"
    )


def _per_time(scores: Tensor, costs: Tensor) -> Tensor:
    """Return scores in which an equal score counts more where its block is fast.

    A squared score over the number of units is the share of its block's weight that the unit has.
    Over the time of the unit it is what removing costs for each millisecond.
    """
    whole = float(costs.sum())
    if whole <= 0:  # nothing is gained
        return scores.masked_fill(~scores.isneginf(), torch.inf)
    return scores / whole**0.5


def _comparable(site: Site, floor: float) -> Tensor:
    """Return scores over their root mean square, with infinity at those that the floor protects.

    Minus infinity, the score of what is removed already, counts as zero in the mean.
    """
    scores = scores_to_prune(site)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    scores = scores / functional.root_mean_square(scores)
    flat = scores.flatten()
    # A pattern needs no floor: it always leaves part of every group.
    most = 1.0 if site.most < 1 else 1 - floor
    lowest = kernels.candidate_mask(flat, most, break_ties=True).view_as(scores)
    return site.eligible(scores).masked_fill(~lowest, torch.inf)


def _affordable(
    scores: Sequence[Tensor], costs: Sequence[Tensor], sparsity: float
) -> Iterator[Tensor]:
    """Yield a mask for each tensor of scores; among equal scores it takes no more than asked."""
    every = torch.cat([score.flatten().cpu() for score in scores])
    sizes = torch.tensor([score.numel() for score in scores])
    each = torch.cat([cost.flatten() for cost in costs])
    ranked, order = every.sort(stable=True)
    spent = each[order].cumsum(0)
    affordable = int((spent <= sparsity * spent[-1] * (1 + 1e-9)).sum())
    possible = min(affordable, int((~ranked.isposinf()).sum()))
    chosen = torch.zeros(len(every), dtype=torch.bool)
    chosen[order[:possible]] = True
    for score, part in zip(scores, chosen.split(sizes.tolist()), strict=True):
        yield part.view_as(score).to(score.device)


def _check_counted_once(sites: Sequence[Site]) -> None:
    """Raise if experts and layers inside them are ranked together."""
    for site in sites:
        around = next((other for other in sites if other.contains(site.name)), None)
        if around is not None:
            raise ValueError(
                f"a global budget would count {site.name} twice: once alone, and once as part of "
                f"the experts of {around.name}. Prune experts and their insides one after the other"
            )
