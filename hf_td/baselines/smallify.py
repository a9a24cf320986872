"""Smallify (Leclerc et al., arXiv 1806.03723)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hf_td.baselines.base import Gate, Learning, Penalised
from hf_td.config import TargetedDropoutConfig
from hf_td.ranking.sites import Site


@dataclass(frozen=True, kw_only=True)
class Smallify(Penalised, Learning):
    """Switches that multiply each weight or unit, and remove it when the switch's sign flickers.

    The penalty is on the sum of the magnitudes of the switches. Each update adds to the exponential
    moving variance of the switches' signs. A switch whose variance reaches the threshold stays 0.
    Pruning ranks by the magnitude of the switches.

    The paper draws the switches from U[0, 1), which suits random weights. Pretrained weights are
    not random, so here the switches start at 1 (`spread=1` is the paper's).

    Attributes:
        penalty: the factor of the sum; the defaults are the paper's.
        spread: the width of the interval [1 - spread, 1] that switches start in, uniformly; in
            [0, 1].
        decay: the decay of the moving mean and variance, in [0, 1).
        threshold: the variance from which a switch is removed, positive.
        learning_rate: the learning rate of the switches.
    """

    LABEL: ClassVar[str] = "Smallify"
    UNIT: ClassVar[Mapping[str, Any]] = {"penalty": 1e-4}

    penalty: float = 1e-5
    spread: float = 0.0
    decay: float = 0.9
    threshold: float = 0.5
    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_fractions("decay")
        if not 0 <= self.spread <= 1:
            raise ValueError(f"spread is in [0, 1], got {self.spread}")
        if self.threshold <= 0:
            raise ValueError(f"threshold is positive, got {self.threshold}")

    def treat(self, sites: Sequence[Site], config: TargetedDropoutConfig) -> Gate:
        """Create switches on the site."""
        return _Switches(sites, self)


class _Switches(Gate):
    """Switches, with the moving mean and variance of their signs."""

    alive: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, sites: Sequence[Site], method: Smallify) -> None:
        super().__init__(sites)
        self.method = method
        ones = self.ranked_like(1.0)
        self.switches = nn.Parameter(ones - method.spread * torch.rand_like(ones))
        self.register_buffer("alive", ones.clone())
        self.register_buffer("mean", ones.clone())
        self.register_buffer("variance", torch.zeros_like(ones))

    def advance(self, progress: float) -> None:
        step = 1 - self.method.decay
        difference = self.switches.sign() - self.mean
        self.mean.add_(step * difference)
        self.variance.add_(step * difference.square()).mul_(self.method.decay)
        self.alive.mul_(self.variance < self.method.threshold)

    def factor(self) -> Tensor:
        return self.switches * self.alive

    def cost(self) -> Tensor:
        return self.factor().abs().sum()

    def scores(self) -> Tensor:
        return self.factor().abs()
