"""Slow loops that score and rank."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from hf_td.anatomy import Block


def unit_scores(model: nn.Module, tied: Sequence[Block]) -> list[float]:
    """Return the norm of the producers' weights of each unit, over all tied blocks."""
    scores = []
    for unit in range(tied[0].units):
        total = 0.0
        for producer in (producer for block in tied for producer in block.producers):
            layer: Any = model.get_submodule(producer.module)
            weight = layer.weight.detach().double().movedim(producer.feature_dim(model), 0)
            total += float(weight[producer.features[unit]].square().sum())
        scores.append(math.sqrt(total))
    return scores


def lowest(scores: Iterable[float], fraction: float) -> set[int]:
    """Return the positions of the lowest fraction of the scores, rounded down."""
    scores = list(scores)
    count = math.floor(fraction * len(scores) + 1e-6)
    return set(sorted(range(len(scores)), key=scores.__getitem__)[:count])
