"""The order of rows and the dtypes of tensors in GGUF."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Name of a dtype in `gguf.GGMLQuantizationType`, and of a file of it in `gguf.LlamaFileType`.
DTYPES: dict[torch.dtype, tuple[str, str]] = {
    torch.float32: ("F32", "ALL_F32"),
    torch.float16: ("F16", "MOSTLY_F16"),
    torch.bfloat16: ("BF16", "MOSTLY_BF16"),
}


def in_pairs(weight: Tensor, head_size: int) -> Tensor:
    """Return a copy with the rows of each head in the order of llama.cpp.

    The rotary embedding rotates row i together with row `i + head_size / 2` in Transformers, and
    together with its neighbour in llama.cpp.

    Args:
        weight: of queries or keys, `(heads * head_size, in)`.
        head_size: an even number of rows.
    """
    halves = weight.reshape(-1, 2, head_size // 2, weight.shape[-1])
    return halves.transpose(1, 2).reshape(weight.shape)


def in_halves(weight: Tensor, head_size: int) -> Tensor:
    """Return a copy with the rows of each head in the order of Transformers; undo `in_pairs`."""
    pairs = weight.reshape(-1, head_size // 2, 2, weight.shape[-1])
    return pairs.transpose(1, 2).reshape(weight.shape)


def to_array(tensor: Tensor) -> Any:
    """Return a tensor as an array of numpy; bfloat16 as its bytes, which numpy has no dtype for.

    Vectors become float32: llama.cpp takes no others.
    """
    tensor = tensor.detach().cpu()
    tensor = tensor.float() if tensor.dim() == 1 else tensor
    tensor = tensor.contiguous()
    return (tensor.view(torch.uint8) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def to_tensor(array: Any, dtype: torch.dtype) -> Tensor:
    """Return a tensor with the content of an array of `to_array`."""
    tensor = torch.from_numpy(array.copy())
    return tensor.view(dtype) if tensor.dtype == torch.uint8 else tensor
