"""The Triton kernel of `hf_td.kernels.cuda.products`; importing this file imports Triton."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hf_td.kernels.triton_types import TYPES

# Entries of a program, and its warps.
_BLOCK = 1024
_WARPS = 4
# Of a row of the table, see `write_products`.
COLUMNS = 7


def write_products(
    table: Tensor, *, largest: int, source: torch.dtype, out: torch.dtype, same_layout: bool
) -> None:
    """Write the products of tensors and masks in one launch.

    Args:
        table: `(products, COLUMNS)`, int64; of each product where the tensor, the mask (boolean)
            and the result lie, at multiples of 16 bytes, the number of entries, the number of
            columns, and the strides of the mask along rows and columns.
        largest: the largest number of entries.
        source: type of the tensors.
        out: type of the results.
        same_layout: whether all masks lie as their tensors do.
    """
    kernel: Any = _products
    kernel[(triton.cdiv(largest, _BLOCK), len(table))](
        table,
        SOURCE=TYPES[source],
        OUT=TYPES[out],
        SAME_LAYOUT=same_layout,
        FIELDS=COLUMNS,
        BLOCK=_BLOCK,
        num_warps=_WARPS,
    )


@triton.jit
def _products(
    table,
    SOURCE: tl.constexpr,
    OUT: tl.constexpr,
    SAME_LAYOUT: tl.constexpr,
    FIELDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write a block of one product; what is dropped is zero, whatever the tensor has there."""
    row = table + tl.program_id(1) * FIELDS
    size = tl.load(row + 3).to(tl.int32)
    start = tl.program_id(0) * BLOCK
    if start < size:
        place = start + tl.arange(0, BLOCK)
        inside = place < size
        source = tl.load(row).to(tl.pointer_type(SOURCE)) + place  # pyright: ignore[reportArgumentType]  # a constexpr is its value here
        keep = tl.load(row + 1).to(tl.pointer_type(tl.int8))
        out = tl.load(row + 2).to(tl.pointer_type(OUT)) + place  # pyright: ignore[reportArgumentType]
        if SAME_LAYOUT:
            kept = tl.load(tl.multiple_of(keep + place, [16]), mask=inside, other=0)
        else:
            columns = tl.load(row + 4).to(tl.int32)
            along_rows = tl.load(row + 5).to(tl.int32)
            along_columns = tl.load(row + 6).to(tl.int32)
            line = place // columns
            at = line * along_rows + (place - line * columns) * along_columns
            kept = tl.load(keep + at, mask=inside, other=0)
        value = tl.load(tl.multiple_of(source, [16]), mask=inside, other=0.0)
        product = tl.where(kept != 0, value, 0.0)
        tl.store(tl.multiple_of(out, [16]), product.to(OUT), mask=inside)
