"""Dropout of weights or of units, candidates or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_td.baselines.base import Baseline, Gate
from hf_td.config import TargetedDropoutConfig
from hf_td.ranking.sites import Site


@dataclass(frozen=True, kw_only=True)
class Dropout(Baseline):
    """Dropout of all weights or units with one probability; survivors scale by 1 / (1 - rate).

    As in the paper's comparison (`untargeted` in the authors' code), a draw holds for an update,
    and evaluation uses the full weights.

    Attributes:
        rate: the probability, in [0, 1). The paper matches it to what targeted dropout drops on
            average, targeting times drop rate: .5 * .5.
    """

    LABEL: ClassVar[str] = "dropout"

    rate: float = 0.25

    def __post_init__(self) -> None:
        self._check_fractions("rate")

    def treat(self, sites: Sequence[Site], config: TargetedDropoutConfig) -> Gate:
        """Create noise on the site."""
        return _Dropped(sites, self.rate)


class Noise(Gate):
    """A gate that is drawn at each update, and 1 in eval mode.

    Attributes:
        drawn: the factor of this update, float32. It is a function of seed, update and site, and is
            not saved.
    """

    drawn: Tensor

    def __init__(self, sites: Sequence[Site]) -> None:
        super().__init__(sites)
        self.register_buffer("drawn", self.ranked_like(1.0), persistent=False)

    def factor(self) -> Tensor:
        """Return what was drawn in training mode, ones in eval mode."""
        return self.drawn if self.training else torch.ones_like(self.drawn)


class _Dropped(Noise):
    def __init__(self, sites: Sequence[Site], rate: float) -> None:
        super().__init__(sites)
        self.rate = rate

    def advance(self, progress: float) -> None:
        self.drawn.bernoulli_(1 - self.rate).div_(1 - self.rate)
