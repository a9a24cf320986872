"""A random subnetwork, chosen before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_td import kernels
from hf_td.baselines.base import Baseline, Gate
from hf_td.config import TargetedDropoutConfig
from hf_td.ranking.sites import Site


@dataclass(frozen=True, kw_only=True)
class RandomSubnetwork(Baseline):
    """Removes a random part of the weights or units before training, and trains the rest.

    The same fraction of every site goes, at the weight level of every output unit. Up to that
    sparsity pruning takes what is gone already; beyond it the importance decides.

    Attributes:
        sparsity: the fraction that goes, in [0, 1); the targeting where it is None.
    """

    sparsity: float | None = None

    def __post_init__(self) -> None:
        self._check_fractions("sparsity")

    def treat(self, sites: Sequence[Site], config: TargetedDropoutConfig) -> Gate:
        """A fixed mask on the site."""
        return _Chosen(sites, config.targeting if self.sparsity is None else self.sparsity)


class _Chosen(Gate):
    alive: Tensor

    def __init__(self, sites: Sequence[Site], sparsity: float) -> None:
        super().__init__(sites)
        luck = torch.rand_like(self.ranked_like(0.0))
        gone = kernels.candidate_mask(luck, sparsity, self.site.dim, break_ties=True)
        self.register_buffer("alive", (~gone).float(), persistent=False)

    def factor(self) -> Tensor:
        return self.alive
