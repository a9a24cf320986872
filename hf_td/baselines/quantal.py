"""Quantal synaptic dilution (Bhumbra, arXiv 2009.13165), as its abstract describes it.

The abstract says: dropout modelled on a synapse, with heterogeneous release probabilities and
response magnitudes, and masks that are the identity at test time. The distributions are this
project's choice, not the paper's: Beta for the probabilities, Gamma for the magnitudes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Beta, Gamma

from hf_td.baselines.base import Baseline
from hf_td.baselines.dropout import Noise
from hf_td.config import TargetedDropoutConfig
from hf_td.ranking.sites import Site

# The lowest release probability. Responses are scaled by its inverse, which must stay small.
_RAREST = 0.05


@dataclass(frozen=True, kw_only=True)
class QuantalSynapticDilution(Baseline):
    """Dropout with a probability of its own for every weight or unit, and random magnitudes.

    The factor of an update is `b * q / p`, with b ~ Bernoulli(p) and q ~ Gamma of mean 1. It keeps
    the mean of every output. p ~ Beta of mean `1 - rate` is drawn once. In eval mode the factor is
    1.

    Attributes:
        rate: the mean probability of no release, in [0, 1).
        concentration: concentration of the Beta, positive; the larger, the more equal the
            probabilities.
        variation: coefficient of variation of the response magnitudes, positive.
    """

    LABEL: ClassVar[str] = "quantal synaptic dilution"

    rate: float = 0.25
    concentration: float = 10.0
    variation: float = 0.5

    def __post_init__(self) -> None:
        self._check_fractions("rate")
        for name in ("concentration", "variation"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is positive, got {getattr(self, name)}")

    def treat(self, sites: Sequence[Site], config: TargetedDropoutConfig) -> Noise:
        """Create noise on the site."""
        return _Quantal(sites, self)


class _Quantal(Noise):
    release: Tensor

    def __init__(self, sites: Sequence[Site], method: QuantalSynapticDilution) -> None:
        super().__init__(sites)
        self.shape = 1 / method.variation**2
        release = torch.ones_like(self.drawn)
        if method.rate:
            whole = method.concentration * release
            release = Beta((1 - method.rate) * whole, method.rate * whole).sample()
            release = release.clamp(min=_RAREST)
        self.register_buffer("release", release, persistent=False)

    def advance(self, progress: float) -> None:
        shape = torch.full_like(self.release, self.shape)
        self.drawn.copy_(Gamma(shape, shape).sample() * torch.bernoulli(self.release))
        self.drawn.div_(self.release)
