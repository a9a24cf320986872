"""L0 regularisation with hard-concrete gates (Louizos et al., arXiv 1712.01312)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from hf_td.baselines.base import Gate, Learning, Penalised
from hf_td.config import TargetedDropoutConfig
from hf_td.ranking.importance import fan_in_dim
from hf_td.ranking.sites import Site, UnitSite

# Temperature, and the interval to which the concrete distribution is stretched.
BETA = 2 / 3
GAMMA, ZETA = -0.1, 1.1
_START_DEVIATION = 0.01


def hard_concrete(logits: Tensor, noise: Tensor | None = None) -> Tensor:
    """Gates in [0, 1], most of which are 0 or 1 where the logits are far from 0.

    Args:
        logits: any shape.
        noise: logistic noise `log(u) - log(1 - u)` of that shape; None for the gates at evaluation.
    """
    soft = torch.sigmoid(logits if noise is None else (logits + noise) / BETA)
    return (soft * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def open_probability(logits: Tensor) -> Tensor:
    """The probability that a gate with noise is not 0."""
    return torch.sigmoid(logits - BETA * math.log(-GAMMA / ZETA))


@dataclass(frozen=True, kw_only=True)
class L0(Penalised, Learning):
    """Multiplies each weight or unit by a random gate, and pays for every gate that may be open.

    The cost is the expected number of weights whose gate is open (a unit counts for all weights
    that produce it), over the number of training examples. Gates are drawn once for each update.
    Pruning ranks by the logits of the gates. The defaults are the paper's, but for the learning
    rate, without which the gates of a short fine-tuning would never close.

    Attributes:
        penalty: what multiplies the cost.
        closed: the probability with which a gate starts closed, but for the stretching; in (0, 1).
        learning_rate: of the logits.
    """

    UNIT: ClassVar[Mapping[str, Any]] = {"penalty": 0.01}
    PER: ClassVar[Literal["", "example", "site"]] = "example"

    penalty: float = 0.1
    closed: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.closed < 1:
            raise ValueError(f"closed is a probability in (0, 1), got {self.closed}")

    def treat(self, sites: Sequence[Site], config: TargetedDropoutConfig) -> Gate:
        """Gates on the site."""
        return _HardConcrete(sites, self.closed)


class _HardConcrete(Gate):
    noise: Tensor

    def __init__(self, sites: Sequence[Site], closed: float) -> None:
        super().__init__(sites)
        start = self.ranked_like(math.log((1 - closed) / closed))
        self.logits = nn.Parameter(start + _START_DEVIATION * torch.randn_like(start))
        self.register_buffer("noise", torch.zeros_like(start), persistent=False)
        self.weights = float(sum(_weights_of_each(site) for site in sites))

    def advance(self, progress: float) -> None:
        uniform = torch.rand_like(self.noise).clamp(1e-6, 1 - 1e-6)
        self.noise.copy_(torch.logit(uniform))

    def factor(self) -> Tensor:
        return hard_concrete(self.logits, self.noise if self.training else None)

    def cost(self) -> Tensor:
        return self.weights * open_probability(self.logits).sum()

    def scores(self) -> Tensor:
        return self.logits


def _weights_of_each(site: Site) -> int:
    """How many weights a gate stands for."""
    if not isinstance(site, UnitSite):
        return 1
    rows = [
        projection.features.shape[1] * layer.weight.shape[fan_in_dim(layer)]
        for layer, projection in site.own_members
    ]
    return sum(rows)
