"""L1 regularisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_td.baselines.base import Penalised, Treatment
from hf_td.config import TargetedDropoutConfig
from hf_td.ranking.sites import Site


@dataclass(frozen=True, kw_only=True)
class L1(Penalised):
    """A penalty on the mean magnitude of each layer's weights.

    The layers are those whose weights make the scores: at the unit level the producers of the
    units. The defaults are the paper's.

    Attributes:
        penalty: the factor of the sum of the means.
    """

    LABEL: ClassVar[str] = "L1"
    UNIT: ClassVar[Mapping[str, Any]] = {"penalty": 0.01}

    penalty: float = 0.1

    def treat(self, sites: Sequence[Site], config: TargetedDropoutConfig) -> Treatment:
        """Create a cost of the site."""
        return _MeanMagnitude(sites)


class _MeanMagnitude(Treatment):
    def cost(self) -> Tensor:
        layers = {id(layer): layer for site in self.sites for layer in site.producers}
        return torch.stack([layer.weight.float().abs().mean() for layer in layers.values()]).sum()
