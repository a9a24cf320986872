"""How much of each layer goes, for a given sparsity of the model.

Uniform: the same fraction of every layer, as in the paper. Global: one ranking over the whole
model, so that layers which need less keep less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hf_td import kernels
from hf_td.ranking.importance import fan_in_dim, unit_dim
from hf_td.ranking.sites import ExpertSite, Site, UnitSite

Kind = Literal["uniform", "global"]
Of = Literal["units", "parameters", "flops"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A rule for spending a sparsity.

    Attributes:
        kind: `uniform` takes the same fraction of every site; `global` ranks all sites together,
            on scores that are divided by the root mean square of their site.
        of: what a global sparsity is a fraction of: `units` (weights at the weight level),
            `parameters`, or estimated `flops` of one token.
        floor: the fraction of each site that a global budget never takes, in [0, 1].
        length: the number of tokens that attention is assumed to look at, for `flops`.
    """

    kind: Kind = "uniform"
    of: Of = "units"
    floor: float = 0.05
    length: int = 128

    def __post_init__(self) -> None:
        for name, choices in (("kind", get_args(Kind)), ("of", get_args(Of))):
            if getattr(self, name) not in choices:
                got = getattr(self, name)
                raise ValueError(f"budget {name} must be one of {list(choices)}, got {got!r}")
        if not 0 <= self.floor <= 1:
            raise ValueError(f"budget floor is a fraction in [0, 1], got {self.floor}")

    def choose(self, sites: Sequence[Site], sparsity: float) -> list[Tensor]:
        """For each site, what goes: boolean, of the shape of its scores."""
        if self.kind == "uniform":
            return [_lowest(site, sparsity) for site in sites]
        return _choose_globally(sites, sparsity, self)


def _lowest(site: Site, sparsity: float) -> Tensor:
    scores = site.eligible(site.scores())
    lowest = kernels.candidate_mask(scores, sparsity, site.dim, break_ties=True)
    # A sum is finite only if all scores are, and costs far less than a mask of those that are.
    return lowest if scores.sum().isfinite() else lowest & ~scores.isposinf()


def _choose_globally(sites: Sequence[Site], sparsity: float, budget: Budget) -> list[Tensor]:
    """Take the lowest scores of all sites until their cost is the wanted share of the whole.

    Sites with one index are tied: they have the same scores, and their units go together.
    """
    _check_counted_once(sites)
    groups: dict[int, list[Site]] = {}
    for site in sites:
        groups.setdefault(site.index, []).append(site)
    scores = [_comparable(tied[0], budget.floor) for tied in groups.values()]
    costs = [sum(_cost(site, budget) for site in tied) for tied in groups.values()]
    chosen = dict(zip(groups, _affordable(scores, costs, sparsity), strict=True))
    return [chosen[site.index] for site in sites]


def _comparable(site: Site, floor: float) -> Tensor:
    """Scores over their root mean square; those that the floor protects are infinite.

    What is gone already, of which a score may say minus infinity, counts as zero in the mean.
    """
    scores = site.scores().float()
    squares = scores.square().masked_fill_(scores.isneginf(), 0)
    scores = scores / squares.mean().sqrt().clamp(min=1e-12)
    flat = scores.flatten()
    # A pattern leaves something of every group by itself.
    most = 1.0 if site.most < 1 else 1 - floor
    lowest = kernels.candidate_mask(flat, most, break_ties=True).view_as(scores)
    return site.eligible(scores).masked_fill(~lowest, torch.inf)


def _affordable(
    scores: Sequence[Tensor], costs: Sequence[float], sparsity: float
) -> Iterator[Tensor]:
    """For each tensor of scores what goes; of equal scores no more than are asked for."""
    every = torch.cat([score.flatten().cpu() for score in scores])
    sizes = torch.tensor([score.numel() for score in scores])
    each = torch.tensor(costs, dtype=torch.float64).repeat_interleave(sizes)
    ranked, order = every.sort(stable=True)
    spent = each[order].cumsum(0)
    affordable = int((spent <= sparsity * spent[-1] * (1 + 1e-9)).sum())
    possible = min(affordable, int((~ranked.isposinf()).sum()))
    chosen = torch.zeros(len(every), dtype=torch.bool)
    chosen[order[:possible]] = True
    for score, part in zip(scores, chosen.split(sizes.tolist()), strict=True):
        yield part.view_as(score).to(score.device)


def _check_counted_once(sites: Sequence[Site]) -> None:
    """Refuse to rank experts and what is inside of them together."""
    mixtures = [site.mixture for site in sites if isinstance(site, ExpertSite)]
    for site in sites:
        around = [m for m in mixtures if site.name.startswith(f"{m.experts}.")]
        if around:
            raise ValueError(
                f"a global budget would count {site.name} twice, by itself and in the experts of "
                f"{around[0].name}; prune experts and what is inside of them one after the other"
            )


def _cost(site: Site, budget: Budget) -> float:
    """What one entry of a site costs."""
    if isinstance(site, ExpertSite):
        return _EXPERT_COSTS[budget.of](site)
    return _COSTS[budget.of](site, budget) if isinstance(site, UnitSite) else 1.0


def _unit_parameters(site: UnitSite, budget: Budget) -> float:
    """Weights and biases of the rows that produce a unit, and of the columns that read it."""
    rows = sum(
        projection.features.shape[1] * _per_row(layer) for layer, projection in site.own_members
    )
    outputs = site.layer.weight.shape[unit_dim(site.layer)]
    return rows + site.block.consumer.features.shape[1] * outputs


def _per_row(layer: Any) -> int:
    return layer.weight.shape[fan_in_dim(layer)] + (layer.bias is not None)


def _unit_flops(site: UnitSite, budget: Budget) -> float:
    """Two for each weight, and for heads two for each score and each mix of values."""
    mixing = 0
    if site.block.part == "attention":
        mixing = 4 * budget.length * site.block.consumer.features.shape[1]
    return 2 * _unit_parameters(site, budget) + mixing


def _expert_parameters(site: ExpertSite) -> float:
    """All that belongs to an expert, its row in the router included."""
    return sum(p.numel() for p in site.parameters()) / site.mixture.units


def _expert_flops(site: ExpertSite) -> float:
    """Those of its logit alone: each token goes to as many experts as before."""
    return 2 * site.layer.weight.shape[1]


_EXPERT_COSTS: dict[str, Callable[[ExpertSite], float]] = {
    "units": lambda site: 1.0,
    "parameters": _expert_parameters,
    "flops": _expert_flops,
}

_COSTS: dict[str, Callable[[UnitSite, Budget], float]] = {
    "units": lambda site, budget: 1.0,
    "parameters": _unit_parameters,
    "flops": _unit_flops,
}
