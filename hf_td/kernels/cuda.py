"""On CUDA: Triton kernels that take many weights in one launch.

For masks, those of one shape: a program ranks the rows of a few output units in its registers, so
that every weight is read once. Steps of small models are bound by how fast work is handed to the
device, so that nothing here waits for it, and what does not change is sent there once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from hf_td import functional
from hf_td.kernels.ranked import Drawn, Order, Ranked

_TYPES = (torch.float32, torch.bfloat16, torch.float16)
# Of a row that fits the registers of a program.
_LONGEST_ROW = 1 << 15
# Entries of a tensor whose places are counted in 32 bits.
_LARGEST = 1 << 31
# Of a row, how many candidates more or fewer leave the cut-off near where it was.
_NEAR = 0.01
# Bytes that a thread reads at once.
_ALIGNMENT = 16


def supports(one: Ranked) -> bool:
    """Whether weights can be ranked here."""
    weight = one.weight
    fits = weight.dim() == 2 and weight.shape[one.dim] <= _LONGEST_ROW
    return weight.is_cuda and fits and weight.dtype in _TYPES and _has_triton()


def multiplies(tensor: Tensor, keep: Tensor, out: Tensor) -> bool:
    """Whether `products` takes a tensor and a mask and writes their product to `out`."""
    if not (tensor.is_cuda and _has_triton()):
        return False
    types = tensor.dtype in _TYPES and out.dtype in _TYPES and keep.dtype == torch.bool
    size = tensor.dim() == 2 and 0 < tensor.numel() < _LARGEST
    return types and size and all(map(_is_plain, (tensor, out)))


def _is_plain(tensor: Tensor) -> bool:
    return tensor.is_contiguous() and tensor.data_ptr() % _ALIGNMENT == 0


def can_sum(weight: Tensor) -> bool:
    """Whether `sums_of_squares` takes a weight."""
    return weight.is_cuda and weight.dim() == 2 and weight.dtype in _TYPES and _has_triton()


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def prepare(ranked: Sequence[Ranked]) -> Callable[[Order], list[Drawn]]:
    """What gives the masks of weights, with a launch for all of one shape.

    See `hf_td.kernels.Ranking`. Draws come from Philox, keyed by the weight's key and counted by
    the position in the weight, eight inputs of a unit at a time.
    """
    by_kind: dict[Any, list[int]] = defaultdict(list)
    for place, one in enumerate(ranked):
        by_kind[_kind(one)].append(place)
    groups = [(places, _Group([ranked[i] for i in places])) for places in by_kind.values()]

    def draw(order: Order) -> list[Drawn]:
        drawn: dict[int, Drawn] = {}
        for places, group in groups:
            drawn.update(zip(places, group.draw(order.of(places)), strict=True))
        return [drawn[place] for place in range(len(ranked))]

    return draw


def _kind(one: Ranked) -> Any:
    """What weights of one launch have in common."""
    weight = one.weight
    layout = weight.dtype, weight.device, weight.shape, weight.stride()
    return *layout, one.dim, one.scale is None, one.compute


class _Group:
    """Weights of one launch."""

    def __init__(self, group: Sequence[Ranked]) -> None:
        weight, self._dim = group[0].weight, group[0].dim
        self._size, self._weight, self._device = len(group), weight, weight.device
        self._compute = group[0].compute if group[0].compute in _TYPES else None
        pointers = tuple(one.weight.data_ptr() for one in group)
        scales = tuple(one.scale.data_ptr() for one in group if one.scale is not None)
        self._aligned = _rows_are_aligned(weight, self._dim, pointers)
        self._pointers = _sent(pointers, self._device)
        self._scales = _sent(scales, self._device) if scales else None
        # How many candidates a row had, and where they were cut off: of what is dropped, and of
        # what learns where nothing is, which come in turn and are not as many.
        self._known: dict[bool, tuple[int, Tensor]] = {}

    def draw(self, order: Order) -> Iterable[Drawn]:
        """The masks of an update."""
        from hf_td.kernels.triton_masks import write_masks  # is there on CUDA alone

        weight, number = self._weight, self._size
        fan_in = weight.shape[self._dim]
        count = functional.candidate_count(fan_in, order.fraction)
        if not 0 < count < fan_in:
            same = torch.full_like(weight, count == 0, dtype=torch.bool)
            return [Drawn(same.clone()) for _ in range(number)]
        keeps = torch.empty(number, *weight.shape, dtype=torch.bool, device=self._device)
        compute = self._compute if order.masked else None
        masked = None if compute is None else torch.empty_like(keeps, dtype=compute)
        keys = None if order.drop_rate == 1 else _sent(order.keys, self._device)
        with torch.cuda.device_of(keeps):  # Triton launches on the current device
            write_masks(
                self._pointers,
                keys,
                self._scales,
                self._cutoffs(order.masked, count),
                keeps,
                masked,
                weight=weight,
                dim=self._dim,
                count=count,
                drop_rate=order.drop_rate,
                aligned=self._aligned,
            )
        return map(Drawn, keeps, [None] * number if masked is None else masked)

    def _cutoffs(self, masked: bool, count: int) -> Tensor:
        """Where rows were cut off before, if not far from where they will be; else zeros."""
        units, fan_in = self._weight.shape[1 - self._dim], self._weight.shape[self._dim]
        before, cutoffs = self._known.get(masked, (0, None))
        if cutoffs is None or abs(count - before) > fan_in * _NEAR:
            size = self._size, units
            cutoffs = torch.zeros(size, dtype=torch.int32, device=self._device)
        self._known[masked] = count, cutoffs
        return cutoffs


def sums_of_squares(weights: Sequence[Tensor], dim: int) -> Tensor:
    """As `hf_td.kernels.sums_of_squares`, of weights that `can_sum` takes, in one launch."""
    from hf_td.kernels.triton_sums import write_sums  # is there on CUDA alone

    weight = weights[0]
    pointers = tuple(one.data_ptr() for one in weights)
    shape = len(weights), weight.shape[1 - dim]
    sums = torch.empty(shape, dtype=torch.float32, device=weight.device)
    with torch.cuda.device_of(sums):  # Triton launches on the current device
        aligned = _rows_are_aligned(weight, dim, pointers)
        write_sums(_known(pointers, weight.device), sums, weight=weight, dim=dim, aligned=aligned)
    return sums


def _rows_are_aligned(weight: Tensor, dim: int, pointers: Sequence[int]) -> bool:
    row = weight.stride(1 - dim) * weight.element_size()
    starts = (*pointers, row)
    return weight.stride(dim) == 1 and all(start % _ALIGNMENT == 0 for start in starts)


def products(rows: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
    """Write products with masks, with a launch for all of the same types.

    Args:
        rows: tensors, masks, and where the products are written; as `multiplies` takes them.
    """
    from hf_td.kernels.triton_products import write_products  # is there on CUDA alone

    groups: dict[Any, list[tuple[int, ...]]] = defaultdict(list)
    for tensor, keep, out in rows:
        spread = keep if keep.shape == tensor.shape else keep.expand_as(tensor)
        places = tensor.data_ptr(), spread.data_ptr(), out.data_ptr()
        row = *places, tensor.numel(), tensor.shape[1], *spread.stride()
        groups[tensor.device, tensor.dtype, out.dtype, _is_plain(spread)].append(row)
    for (device, source, result, same_layout), table in groups.items():
        sent = _known(tuple(table), device)
        with torch.cuda.device_of(sent):  # Triton launches on the current device
            write_products(
                sent,
                largest=max(row[3] for row in table),
                source=source,
                out=result,
                same_layout=same_layout,
            )


def _known(numbers: tuple[Any, ...], device: torch.device) -> Tensor:
    """As `_sent`, of numbers that are mostly the same from update to update.

    Those that say where something lies are: what an update allocates comes to lie where that of the
    one before did. Each stream has its own, since only there the sending comes before the use.
    """
    is_cuda = device.type == "cuda"
    stream = torch.cuda.current_stream(device).cuda_stream if is_cuda else 0
    return _table(numbers, device, stream)


@lru_cache(maxsize=256)
def _table(numbers: tuple[Any, ...], device: torch.device, stream: int) -> Tensor:
    return _sent(numbers, device)


def _sent(numbers: Sequence[Any], device: torch.device) -> Tensor:
    """Integers as a tensor on a device, which is not waited for."""
    table = torch.tensor(numbers, dtype=torch.int64, pin_memory=device.type == "cuda")
    return table.to(device, non_blocking=True)
