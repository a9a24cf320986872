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
from hf_td.ranking.sites import Site

# The temperature, and the interval that the concrete distribution is stretched to.
BETA = 2 / 3
GAMMA, ZETA = -0.1, 1.1
_START_DEVIATION = 0.01


def hard_concrete(logits: Tensor, noise: Tensor | None = None) -> Tensor:
    """Return gates in [0, 1]; most are 0 or 1 if the logits are far from 0.

    Args:
        logits: any shape.
        noise: logistic noise `log(u) - log(1 - u)` of that shape; None for the gates of eval mode.
    """
    soft = torch.sigmoid(logits if noise is None else (logits + noise) / BETA)
    return (soft * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def open_probability(logits: Tensor) -> Tensor:
    """Return the probability that a gate with noise is not 0."""
    return torch.sigmoid(logits - BETA * math.log(-GAMMA / ZETA))


@dataclass(frozen=True, kw_only=True)
class L0(Penalised, Learning):
    """Random gates that multiply each weight or unit, and a penalty on gates that may be open.

    The cost is the expected number of weights whose gate is open (a unit counts for all weights
    that produce it), over the number of training examples. Gates are drawn once for each update.
    Pruning ranks by the logits of the gates. The defaults are the paper's except for the learning
    rate: with the paper's, the gates of a short fine-tuning would never close.

    Attributes:
        penalty: the factor of the cost.
        closed: the probability, before stretching, that a gate starts closed; in (0, 1).
        learning_rate: the learning rate of the logits.
    """

    LABEL: ClassVar[str] = "L0"
    UNIT: ClassVar[Mapping[str, Any]] = {"penalty": 0.01}
    PER: ClassVar[Literal["", "example", "site"]] = "example"

    penalty: float = 0.1
    closed: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.closed < 1:
            raise ValueError(f"closed is a probability in (0, 1), got {self.closed}")

    def treat(self, sites: Sequence[Site], config: TargetedDropoutConfig) -> Gate:
        """Create gates on the site."""
        return _HardConcrete(sites, self.closed)


class _HardConcrete(Gate):
    noise: Tensor

    def __init__(self, sites: Sequence[Site], closed: float) -> None:
        super().__init__(sites)
        start = self.ranked_like(math.log((1 - closed) / closed))
        self.logits = nn.Parameter(start + _START_DEVIATION * torch.randn_like(start))
        self.register_buffer("noise", torch.zeros_like(start), persistent=False)
        self.weights = float(sum(site.weights_per_entry for site in sites))

    def advance(self, progress: float) -> None:
        uniform = torch.rand_like(self.noise).clamp(1e-6, 1 - 1e-6)
        self.noise.copy_(torch.logit(uniform))

    def factor(self) -> Tensor:
        return hard_concrete(self.logits, self.noise if self.training else None)

    def cost(self) -> Tensor:
        return self.weights * open_probability(self.logits).sum()

    def scores(self) -> Tensor:
        return self.logits
