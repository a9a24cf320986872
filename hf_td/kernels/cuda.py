"""On CUDA: a Triton kernel that reads every weight once, for all weights of one shape together.

A program ranks the rows of a few output units in its registers. The cut-off of a row is found bit
by bit: magnitudes are not negative, and such numbers are in the order of their bits.
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
from hf_td.kernels.ranked import Ranked

_TYPES = (torch.float32, torch.bfloat16, torch.float16)
# Of a row that fits the registers of a program.
_LONGEST_ROW = 1 << 15


def supports(one: Ranked) -> bool:
    """Whether `keep_masks` takes a weight."""
    weight = one.weight
    fits = weight.dim() == 2 and weight.shape[one.dim] <= _LONGEST_ROW
    return weight.is_cuda and fits and weight.dtype in _TYPES and _has_triton()


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def keep_masks(ranked: Sequence[Ranked], fraction: float, drop_rate: float) -> list[Tensor]:
    """The masks of an update, with a launch for all weights of one shape.

    See `hf_td.kernels.keep_masks`. Draws come from Philox, keyed by the weight's key and counted by
    the position in the weight.
    """
    groups: dict[Any, list[int]] = defaultdict(list)
    for place, one in enumerate(ranked):
        groups[_kind(one)].append(place)
    keeps: dict[int, Tensor] = {}
    for places in groups.values():
        found = _launch([ranked[place] for place in places], fraction, drop_rate)
        keeps.update(zip(places, found, strict=True))
    return [keeps[place] for place in range(len(ranked))]


def _kind(one: Ranked) -> Any:
    """What weights of one launch have in common."""
    weight = one.weight
    layout = weight.dtype, weight.device, tuple(weight.shape), weight.stride()
    return *layout, one.dim, one.scale is None


def _launch(group: Sequence[Ranked], fraction: float, drop_rate: float) -> Sequence[Tensor]:
    from hf_td.kernels.triton_masks import write_masks  # is there on CUDA alone

    weight, dim = group[0].weight, group[0].dim
    device, fan_in = weight.device, weight.shape[dim]
    count = functional.candidate_count(fan_in, fraction)
    if not 0 < count < fan_in:
        return [torch.full_like(one.weight, count == 0, dtype=torch.bool) for one in group]
    keeps = torch.empty(len(group), *weight.shape, dtype=torch.bool, device=device)
    scales = [one.scale for one in group if one.scale is not None]
    with torch.cuda.device_of(keeps):  # Triton launches on the current device
        write_masks(
            _table(tuple(one.weight.data_ptr() for one in group), device),
            _table(tuple(one.key for one in group), device) if drop_rate < 1 else None,
            torch.stack(scales) if scales else None,
            keeps,
            weight=weight,
            dim=dim,
            count=count,
            drop_rate=drop_rate,
        )
    return keeps.unbind()


def _table(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64, device=device)
