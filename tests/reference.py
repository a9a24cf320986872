"""Slow loops that say what is important and what is lowest."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from hf_td.anatomy import Block


def unit_scores(model: nn.Module, tied: Sequence[Block]) -> list[float]:
    """The norm of all that produces each unit of these blocks, one unit after the other."""
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
    """The places of the lowest fraction of the scores, rounded down."""
    scores = list(scores)
    count = math.floor(fraction * len(scores) + 1e-6)
    return set(sorted(range(len(scores)), key=scores.__getitem__)[:count])
