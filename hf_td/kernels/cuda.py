"""CUDA kernels in Triton, with one launch for the cut-offs of many weights of one shape.

A program ranks the rows of a few output units in its registers, so each weight is read once. Launch
overhead dominates the steps of small models, so no function here waits for the device.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from hf_td import functional
from hf_td.functional import Cut, Rule
from hf_td.kernels.ranked import Ranked

_TYPES = (torch.float32, torch.bfloat16, torch.float16)
# The longest row that fits into the registers of a program.
_LONGEST_ROW = 1 << 15
# The bytes that a thread reads at once.
_ALIGNMENT = 16


def can_rank(weight: Tensor, rule: Rule) -> bool:
    """Return True if `cutoffs` supports a weight."""
    fits = weight.dim() == 2 and weight.shape[rule.fan_in_dim] <= _LONGEST_ROW
    return _supports(weight, rule) and fits


def can_mask(source: Tensor, weight: Tensor, rule: Rule, out: Tensor) -> bool:
    """Return True if `write_masked` supports these tensors."""
    tensors = (source, weight, out)
    known = all(tensor.dtype in _TYPES and tensor.is_contiguous() for tensor in tensors)
    return _supports(weight, rule) and known and weight.dim() in (2, 3) and weight.numel() > 0


def can_sum(weight: Tensor) -> bool:
    """Return True if `sums_of_squares` supports a weight."""
    return weight.is_cuda and weight.dim() == 2 and weight.dtype in _TYPES and _has_triton()


def _supports(weight: Tensor, rule: Rule) -> bool:
    usual = rule.pattern is None and rule.random_key is None and weight.dtype in _TYPES
    return weight.is_cuda and usual and _has_triton()


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def cutoffs(ranked: Sequence[Ranked], fraction: float) -> list[Tensor]:
    """Return the cut-offs of weights, with one launch for each group of equal storage.

    See `hf_td.kernels.cutoffs`.
    """
    groups: dict[Any, list[int]] = defaultdict(list)
    for place, (weight, rule, scale, _) in enumerate(ranked):
        storage = weight.dtype, weight.device, weight.shape, weight.stride()
        groups[*storage, rule.fan_in_dim, scale is None].append(place)
    found: dict[int, Tensor] = {}
    for places in groups.values():
        found.update(zip(places, _cutoffs([ranked[i] for i in places], fraction), strict=True))
    return [found[place] for place in range(len(ranked))]


def _cutoffs(group: Sequence[Ranked], fraction: float) -> list[Tensor]:
    from hf_td.kernels.triton_ranking import write_cutoffs  # Triton exists on CUDA alone

    weight, dim = group[0].weight, group[0].rule.fan_in_dim
    shape = list(weight.shape)
    shape[dim] = 1
    found = torch.zeros(len(group), *shape, dtype=torch.float32, device=weight.device)
    starts = [one.weight.data_ptr() for one in group]
    # The kernel reads float32, and a model that was cast has cast buffers.
    own_scales = [one.scale.float() for one in group if one.scale is not None]
    scales = [scale.data_ptr() for scale in own_scales]
    pairs = zip(group, found, strict=True)
    own_before = [new if one.before is None else one.before.float() for one, new in pairs]
    before = [limits.data_ptr() for limits in own_before]
    with torch.cuda.device_of(found):  # Triton launches on the current device
        write_cutoffs(
            _sent(starts, weight.device),
            _sent(scales, weight.device) if scales else None,
            _sent(before, weight.device),
            found,
            weight=weight,
            dim=dim,
            count=functional.candidate_count(weight.shape[dim], fraction),
            aligned=_rows_are_aligned(weight, dim, starts),
        )
    return list(found)


def write_masked(source: Tensor, weight: Tensor, cut: Cut, rule: Rule, out: Tensor) -> None:
    """Write a weight, or its gradient, with zeros where an update drops an entry.

    See `functional.masked`.
    """
    from hf_td.kernels.triton_masking import write_masked as write  # Triton exists on CUDA alone

    scale_strides = [0, 0]
    scale_strides[rule.fan_in_dim - weight.dim()] = 1
    with torch.cuda.device_of(weight):  # Triton launches on the current device
        write(source, weight, cut, scale_strides, out)


def sums_of_squares(weights: Sequence[Tensor], dim: int) -> Tensor:
    """Compute `hf_td.kernels.sums_of_squares` in one launch.

    Args:
        weights: weights of equal storage that `can_sum` supports.
        dim: the dimension that is summed over.
    """
    from hf_td.kernels.triton_sums import write_sums  # Triton exists on CUDA alone

    weight = weights[0]
    starts = [one.data_ptr() for one in weights]
    shape = len(weights), weight.shape[1 - dim]
    sums = torch.empty(shape, dtype=torch.float32, device=weight.device)
    with torch.cuda.device_of(sums):  # Triton launches on the current device
        aligned = _rows_are_aligned(weight, dim, starts)
        write_sums(_sent(starts, weight.device), sums, weight=weight, dim=dim, aligned=aligned)
    return sums


def _rows_are_aligned(weight: Tensor, dim: int, addresses: Sequence[int]) -> bool:
    row = weight.stride(1 - dim) * weight.element_size()
    starts = (*addresses, row)
    return weight.stride(dim) == 1 and all(start % _ALIGNMENT == 0 for start in starts)


def _sent(numbers: Sequence[Any], device: torch.device) -> Tensor:
    """Return integers as a tensor on a device, without waiting for the device."""
    table = torch.tensor(numbers, dtype=torch.int64, pin_memory=device.type == "cuda")
    return table.to(device, non_blocking=True)
