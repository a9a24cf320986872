"""Two slow ways to drop: a port of the authors' code, and `torch.nn.utils.parametrize`."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from hf_td import functional

TARGETING = 0.95
DROP_RATE = 1.0
_IN_LAYER = re.compile(r"\.layers?\.")  # of a BERT, or of a Llama


class NaiveLinear(nn.Linear):
    """A layer like the authors' in TensorFlow, which sorts the whole matrix in every forward."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer, in training mode without the weights that it drops."""
        if not self.training:
            return super().forward(input)
        with torch.no_grad():
            magnitude = self.weight.abs()
            ranked = magnitude.sort(dim=1).values
            threshold = ranked[:, int(TARGETING * ranked.shape[1]), None]
            drop = (magnitude < threshold) & (torch.rand_like(magnitude) < DROP_RATE)
        return F.linear(input, self.weight * (1 - drop.float()), self.bias)


class Masked(nn.Module):
    """A parametrization that multiplies a weight by the mask of the update."""

    keep: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("keep", torch.ones_like(weight, dtype=torch.bool))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the masked weight."""
        return weight * self.keep


def projections(model: nn.Module) -> list[nn.Linear]:
    """Return the layers of a BERT or a Llama that `patch_model` patches."""
    named = model.named_modules()
    return [m for name, m in named if type(m) is nn.Linear and _IN_LAYER.search(name)]


def make_naive(model: nn.Module) -> None:
    """Turn the projections of a model into naive layers, in place."""
    for layer in projections(model):
        layer.__class__ = NaiveLinear


def parametrized(model: nn.Module) -> list[Any]:
    """Parametrize the projections of a model, in place, and return them."""
    layers: list[Any] = projections(model)
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", Masked(layer.weight))
    return layers


@torch.no_grad()
def rank_parametrized(layers: list[Any]) -> None:
    """Make the masks of an update, for layers that `parametrized` returned."""
    for layer in layers:
        masked = layer.parametrizations.weight
        masked[0].keep = ~functional.candidate_mask(masked.original.abs(), TARGETING)
