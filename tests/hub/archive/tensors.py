"""Pruned tensors, and their comparison."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import zstandard
from torch import Tensor
from torch.testing import assert_close

from hf_td.functional import candidate_mask

BLOCK = 1 << 16


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def assert_same_bits(actual: Tensor, expected: Tensor) -> None:
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert_close(bits(actual), bits(expected), rtol=0, atol=0)


def pruned(rows: int, columns: int, sparsity: float, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * 0.02
    return weight.masked_fill(candidate_mask(weight.abs(), sparsity), 0).to(dtype)


def compress(data: bytes | np.ndarray, **options: Any) -> bytes:
    raw = data if isinstance(data, bytes) else data.tobytes()
    return zstandard.ZstdCompressor(level=1, **options).compress(raw)
