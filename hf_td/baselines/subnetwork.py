"""Training of a random subnetwork, chosen beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_td import kernels
from hf_td.baselines.base import Baseline, Gate
from hf_td.config import TargetedDropoutConfig
from hf_td.ranking.sites import Site


@dataclass(frozen=True, kw_only=True)
class RandomSubnetwork(Baseline):
    """A subnetwork without a random part of the weights or units, which is removed before training.

    Every site loses the same fraction, at the weight level every output unit. Up to that sparsity
    pruning takes what is removed already; beyond it the importance decides.

    Attributes:
        sparsity: the fraction to remove, in [0, 1); None takes the targeting.
    """

    LABEL: ClassVar[str] = "random subnetwork"

    sparsity: float | None = None

    def __post_init__(self) -> None:
        self._check_fractions("sparsity")

    def treat(self, sites: Sequence[Site], config: TargetedDropoutConfig) -> Gate:
        """Create a fixed mask on the site."""
        return _Chosen(sites, config.targeting if self.sparsity is None else self.sparsity)


class _Chosen(Gate):
    alive: Tensor

    def __init__(self, sites: Sequence[Site], sparsity: float) -> None:
        super().__init__(sites)
        drawn = torch.rand_like(self.ranked_like(0.0))
        removed = kernels.candidate_mask(drawn, sparsity, self.site.dim, break_ties=True)
        self.register_buffer("alive", (~removed).float(), persistent=False)

    def factor(self) -> Tensor:
        return self.alive
