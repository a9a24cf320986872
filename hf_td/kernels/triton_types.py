"""Triton's types by torch's; importing this file imports Triton."""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl

TYPES: dict[torch.dtype, Any] = {
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}
