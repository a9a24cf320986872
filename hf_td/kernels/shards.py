"""Rows of weights that FSDP2 has sharded over processes.

Each process ranks the rows that it holds. What it finds is one number a row, and these numbers are
gathered. So nothing of the size of a weight is sent, and every process has the numbers of all rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor, Shard


def sharded_dim(weight: DTensor) -> int | None:
    """Return the dimension along which a weight is sharded by rows; None if it is in another way.

    Replicated shards (HSDP) count as sharded.
    """
    dims = [place.dim for place in weight.placements if isinstance(place, Shard)]
    plain = all(type(place) is Shard or place.is_replicate() for place in weight.placements)
    return dims[0] if plain and len(dims) == 1 else None


def is_sharded(weight: Tensor) -> TypeGuard[DTensor]:
    """Return True for a weight of which this process holds a shard."""
    return isinstance(weight, DTensor)


def local(weight: Tensor) -> Tensor:
    """Return the rows of a weight that this process holds: all of an ordinary weight."""
    return weight.to_local() if is_sharded(weight) else weight


def whole(tensor: Tensor) -> Tensor:
    """Return a small tensor that is computed from shards as a whole one. Collective."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def rows_of(numbers: Tensor, weight: Tensor) -> Tensor:
    """Return the part of numbers of all rows that belongs to the rows of this process.

    Args:
        numbers: with the size of the weight, or 1, in each dimension.
        weight: the weight.
    """
    if not is_sharded(weight):
        return numbers
    dim, rank, per_rank = _place(weight)
    if numbers.shape[dim - weight.dim()] == 1 < weight.shape[dim]:
        return numbers
    start = min(rank * per_rank, weight.shape[dim])
    return numbers.narrow(dim, start, local(weight).shape[dim])


def gather_rows(found: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """Return numbers of all rows from those of the rows of each process. Collective.

    All numbers are sent at once, which takes one call for each group of processes.

    Args:
        found: for each weight one number for each row of this process, in the dimensions of the
            weight, of size 1 along its inputs.
        weights: the weights.
    """
    every = list(found)
    for group, places in _by_group(weights).items():
        parts = [_padded(found[place], weights[place]) for place in places]
        sent = torch.cat([part.flatten() for part in parts])
        received = [torch.empty_like(sent) for _ in range(distributed.get_world_size(group))]
        distributed.all_gather(received, sent, group=group)
        sizes = [part.numel() for part in parts]
        each = torch.stack(received).split(sizes, dim=1)
        for place, part, numbers in zip(places, parts, each, strict=True):
            every[place] = _joined(numbers.to(part.dtype), part.shape, weights[place])
    return every


def _by_group(weights: Sequence[Tensor]) -> dict[Any, list[int]]:
    groups: dict[Any, list[int]] = defaultdict(list)
    for place, weight in enumerate(weights):
        if is_sharded(weight):
            groups[_group(weight)].append(place)
    return groups


def _mesh_dim(weight: DTensor) -> int:
    return next(i for i, place in enumerate(weight.placements) if isinstance(place, Shard))


def _group(weight: DTensor) -> Any:
    return weight.device_mesh.get_group(_mesh_dim(weight))


def _place(weight: Tensor) -> tuple[int, int, int]:
    """Return the sharded dimension, the number of this process, and the most rows of a process."""
    assert is_sharded(weight)
    dim = sharded_dim(weight)
    assert dim is not None
    rank = weight.device_mesh.get_local_rank(_mesh_dim(weight))
    return dim, rank, -(-weight.shape[dim] // weight.device_mesh.size(_mesh_dim(weight)))


def _padded(numbers: Tensor, weight: Tensor) -> Tensor:
    """Return the numbers with as many rows as any process has: the last ones can have fewer."""
    dim, _, per_rank = _place(weight)
    shape = list(numbers.shape)
    shape[dim] = per_rank - shape[dim]
    return torch.cat([numbers, numbers.new_zeros(shape)], dim)


def _joined(numbers: Tensor, shape: torch.Size, weight: Tensor) -> Tensor:
    """Return the rows of all processes, `(processes, ...)`, in one tensor without the padding."""
    dim, _, _ = _place(weight)
    each = [one.view(shape) for one in numbers]
    return torch.cat(each, dim).narrow(dim, 0, weight.shape[dim])
