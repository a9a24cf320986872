"""Two slow ways of targeted dropout that benchmarks compare with: a port of the authors' code, and
`torch.nn.utils.parametrize`."""

from __future__ import annotations

from typing import Any

import torch
from lab.benchmarks.training.cases import Applied
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from hf_td import functional
from hf_td.config import RECIPES

TARGETING = RECIPES["weight"]["targeting"]
DROP_RATE = 1.0


class NaiveLinear(nn.Linear):
    """As the authors' TensorFlow code has it: sorts the whole matrix in every forward."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        with torch.no_grad():
            magnitude = self.weight.abs()
            ranked = magnitude.sort(dim=1).values
            threshold = ranked[:, int(TARGETING * ranked.shape[1]), None]
            drop = (magnitude < threshold) & (torch.rand_like(magnitude) < DROP_RATE)
        return F.linear(input, self.weight * (1 - drop.float()), self.bias)


class Masked(nn.Module):
    """A parametrization that multiplies a weight with the mask of the update."""

    keep: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("keep", torch.ones_like(weight, dtype=torch.bool))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.keep


def projections(model: nn.Module) -> list[nn.Linear]:
    """What `patch_model` patches of a BERT."""
    named = model.named_modules()
    return [m for name, m in named if type(m) is nn.Linear and ".layer." in name]


def naive_port(model: nn.Module) -> Applied:
    """Let the projections of a BERT sort themselves; there is nothing to do for an update."""
    for layer in projections(model):
        layer.__class__ = NaiveLinear
    return Applied(lambda update: None)


def parametrized(model: nn.Module) -> Applied:
    """Parametrize the projections of a BERT; its masks are set before each update."""
    layers: list[Any] = projections(model)
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", Masked(layer.weight))

    @torch.no_grad()
    def advance(update: int) -> None:
        for layer in layers:
            masked = layer.parametrizations.weight
            scores = masked.original.abs()
            masked[0].keep = ~functional.candidate_mask(scores, TARGETING)

    return Applied(advance)
