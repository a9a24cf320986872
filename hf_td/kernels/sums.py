"""Sums over many weights at once; chooses by device and type what computes them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_td.kernels import cuda, reductions


def sums_of_squares(weights: Sequence[Tensor], dim: int) -> Tensor:
    """Sums of squares along a dimension of weights that are alike: in float32 or wider.

    Args:
        weights: of one shape, type, layout and device, floating point, two dimensions.
        dim: the dimension that is summed over.

    Returns:
        `(weights, n)`, where n is the size of the other dimension.
    """
    if all(map(cuda.can_sum, weights)):
        return cuda.sums_of_squares(weights, dim)
    return torch.stack([reductions.sum_of_squares(weight, dim) for weight in weights])
