"""Proves on the model which features of its projections belong to which unit.

A random gradient is sent back through chosen channels of a consumer's input, and the rows of the
producers that receive some are those that feed these channels. A unit is a run of channels whose
rows feed no channel outside of it; the smallest such run is the unit. Every unit then takes part in
a choice of backward passes of its own, which is what numbers every row.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hf_td.anatomy.blocks import Block, Companion, Part, Projection, Role
from hf_td.anatomy.trace import Call, Given


@dataclass(frozen=True, eq=False)
class Probe:
    """Sends gradients from the input of one consumer back to the leaves of its feeders."""

    consumer: Call
    feeders: Sequence[Call]

    @property
    def channels(self) -> Tensor:
        """Indices of the consumer's input features."""
        return torch.arange(self.consumer.input.shape[-1])

    @cached_property
    def _noise(self) -> Tensor:
        """Positive numbers of the shape of the consumer's input."""
        return (
            torch.rand(self.consumer.input.shape, generator=torch.Generator().manual_seed(1)) + 0.5
        )

    def units_of_channels(self, units: int) -> Tensor:
        """`(channels,)`: the number of the unit of each channel, if there are so many units."""
        return self.channels // (len(self.channels) // units)

    def gradients(self, choice: Tensor, *, one_token: bool = False) -> list[Tensor]:
        """For each feeder, `(tokens, rows)`: whether that row got a gradient at that token."""
        leaves = [f.leaf for f in self.feeders]
        return [(g != 0).flatten(0, -2).cpu() for g in self._send_back(choice, leaves, one_token)]

    def _send_back(
        self, choice: Tensor, leaves: Sequence[Tensor], one_token: bool = False
    ) -> Sequence[Tensor]:
        hidden = self.consumer.input
        upstream = (self._noise * choice).flatten(0, -2)
        if one_token:
            upstream[:-1] = 0
        upstream = upstream.view(hidden.shape).to(hidden.device, hidden.dtype)
        return torch.autograd.grad(
            hidden, leaves, upstream, retain_graph=True, materialize_grads=True
        )

    def reached(self, choice: Tensor) -> list[Tensor]:
        """For each feeder, `(rows,)`: whether a gradient through the chosen channels reaches it."""
        leaves = [f.leaf for f in self.feeders]
        return [g.flatten(0, -2).any(0).cpu() for g in self._send_back(choice, leaves)]

    def reached_slices(self, leaf: Tensor, dim: int) -> Callable[[Tensor], list[Tensor]]:
        """As `reached`, for the slices of one parameter along one dimension."""

        def reached(choice: Tensor) -> list[Tensor]:
            (grad,) = self._send_back(choice, [leaf])
            return [(grad != 0).movedim(dim, -1).reshape(-1, leaf.shape[dim]).any(0).cpu()]

        return reached


def prove_block(
    consumer: Call, feeders: Sequence[Call], given: Callable[[], Iterable[Given]] = tuple
) -> Block | None:
    """The block that `consumer` closes, or None where no split into units can be proven.

    Args:
        consumer: the call whose input channels are to be split into units.
        feeders: the calls that feed it.
        given: finds the parameters outside of linear layers that reach it.
    """
    probe = Probe(consumer, feeders)
    units = _count_units(probe)
    if units is None:
        return None
    sizes = [feeder.leaf.shape[-1] for feeder in feeders]
    numbers = number_rows(probe.units_of_channels(units), probe.reached, sizes, units)
    part, strands = _strands(probe, numbers, units)
    if part is None or any(s.features is None for s in strands):
        return None
    producers = [
        Projection(s.module, s.role, s.features) for s in strands if s.features is not None
    ]
    producers.sort(key=lambda p: _ORDER.index(p.role))
    reader: Role = "o" if part == "attention" else "down"
    channels = Projection(consumer.name, reader, probe.channels.view(units, -1))
    companions = tuple(c for g in given() for c in _companions(probe, g, units))
    path = _shared_path(consumer, feeders)
    rows = {p.role: p.features.shape[1] for p in producers}
    obstacle = SHARED_HEADS if units == 1 and rows["q"] > rows["k"] else _scattered(producers)
    return Block(path, part, units, tuple(producers), channels, companions, obstacle)


def agrees(block: Block, consumer: Call, feeders: Sequence[Call]) -> bool:
    """Whether the units of a block are made of just those features that it says.

    Args:
        block: how a user describes it.
        consumer: the call of its consumer.
        feeders: the calls of its producers, in their order.
    """
    probe = Probe(consumer, feeders)
    if block.obstacle is not None:  # its units are not claimed, only that it reads these layers
        return all(bool(hit.all()) for hit in probe.reached(torch.ones_like(probe.channels)))
    rows = [f.leaf.shape[-1] for f in feeders]
    numbers = number_rows(probe.units_of_channels(block.units), probe.reached, rows, block.units)
    unit = torch.arange(block.units)[:, None]
    return all(
        bool((number[p.features] == unit).all())
        for number, p in zip(numbers, block.producers, strict=True)
    )


def _scattered(producers: Sequence[Projection]) -> str | None:
    """An obstacle where a fused layer holds its units in groups of a fixed size.

    A forward that splits the rows into such groups cannot do so when single units have gone.
    """
    fused = Counter(p.module for p in producers)
    for producer in producers:
        steps = producer.features[:, 0].diff()
        if fused[producer.module] > 1 and len(steps) and bool((steps != steps[0]).any()):
            return f"{producer.module} holds them in groups that its forward expects to be whole"
    return None


SHARED_HEADS = "its query heads share one key and value head, so there is one unit"
_ORDER: tuple[Role, ...] = ("q", "k", "v", "gate", "up")


def _count_units(probe: Probe) -> int | None:
    """The finest split of the channels into equal runs whose rows do not overlap.

    One where there is no such split, as in attention whose query heads share one key head; None
    where every channel depends on every row.
    """
    channels = probe.channels
    width = len(channels)
    one = probe.reached(channels == 0)
    if all(bool(hit.all()) for hit in one):
        return None  # everything is mixed, as behind a norm: the common case, refused at once
    for size in (n for n in range(1, width) if width % n == 0):
        rest = probe.reached(channels >= size)
        if _overlap(one, rest):
            continue  # and so do the rows of the whole run
        first = probe.reached(channels < size)
        if all(hit.any() for hit in first) and not _overlap(first, rest):
            return width // size
    return 1


def _overlap(first: Sequence[Tensor], rest: Sequence[Tensor]) -> bool:
    return any(bool((f & r).any()) for f, r in zip(first, rest, strict=True))


def number_rows(
    unit: Tensor, reached: Callable[[Tensor], list[Tensor]], sizes: Sequence[int], units: int
) -> list[Tensor]:
    """For each source, `(rows,)`: the unit of each row, or -1 where it has none or several.

    Each unit takes part in equally many passes, and no two in the same ones. So a row of one unit
    is reached in just so many, and a row of several units in more.

    Args:
        unit: `(channels,)`, the unit of each input channel of the consumer.
        reached: says for each source which rows a gradient through chosen channels reaches.
        sizes: the number of rows of each source.
        units: how many there are.
    """
    passes = next(n for n in itertools.count() if math.comb(n, n // 2) >= units)
    codes = _with_ones(passes // 2, passes)[:units]
    unit_of = torch.full((1 << passes,), -1).index_copy_(0, codes, torch.arange(units))
    found = [torch.zeros(size, dtype=torch.long) for size in sizes]
    for bit in range(passes):
        hits = reached((codes[unit] >> bit) & 1 == 1)
        for code, hit in zip(found, hits, strict=True):
            code |= hit.long() << bit
    return [unit_of[code] for code in found]


def _with_ones(ones: int, bits: int) -> Tensor:
    """All numbers of so many bits of which so many are ones, in order."""
    counts = torch.zeros(1, dtype=torch.uint8)
    for _ in range(bits):
        counts = torch.cat([counts, counts + 1])
    return (counts == ones).nonzero().flatten()


def _companions(probe: Probe, given: Given, units: int) -> Iterator[Companion]:
    """The dimension of a parameter, if any, that has slices for each unit."""
    for dim, size in enumerate(given.leaf.shape):
        if size % units == 0:
            reached = probe.reached_slices(given.leaf, dim)
            (number,) = number_rows(probe.units_of_channels(units), reached, [size], units)
            features = features_by_unit(number, number >= 0, units)
            if features is not None:
                yield Companion(given.name, dim, features)


@dataclass(frozen=True, eq=False)
class _Strand:
    """The rows of one feeder that play one role, `(units, per_unit)`, if they are spread evenly."""

    module: str
    role: Role
    features: Tensor | None


def _strands(
    probe: Probe, numbers: Sequence[Tensor], units: int
) -> tuple[Part | None, list[_Strand]]:
    """The part, and every role that a feeder plays; no part where neither kind is proven."""
    hits = probe.gradients(torch.ones_like(probe.channels), one_token=True)
    tokens = [hit.sum(0) for hit in hits]
    if any(bool((t > 1).any()) for t in tokens):
        strands = _attention_strands(probe, numbers, tokens, units)
        complete = {"q", "k", "v"} <= {s.role for s in strands}
        return ("attention" if complete else None), strands
    if units == len(probe.channels) > 1:
        return "feed_forward", _feed_forward_strands(probe, numbers, units)
    return None, []


def features_by_unit(number: Tensor, rows: Tensor, units: int) -> Tensor | None:
    """The chosen rows by unit, `(units, per_unit)`; None if the units differ in their number."""
    counts = torch.bincount(number[rows], minlength=units)
    if len(counts) != units or not bool((counts == counts[0]).all()) or int(counts[0]) == 0:
        return None
    chosen = rows.nonzero().flatten()
    return chosen[number[chosen].argsort(stable=True)].view(units, -1)


def _attention_strands(
    probe: Probe, numbers: Sequence[Tensor], tokens: Sequence[Tensor], units: int
) -> list[_Strand]:
    """Queries feel one token; a key row feels every channel of its head, a value row its own."""
    offset = probe.channels % (len(probe.channels) // units)
    first, second = probe.reached(offset == 0), probe.reached(offset == 1)
    strands = []
    for i, feeder in enumerate(probe.feeders):
        owned, many = numbers[i] >= 0, tokens[i] > 1
        key = many & first[i] & second[i]
        rows: dict[Role, Tensor] = {"q": tokens[i] == 1, "k": key, "v": many & ~key}
        for role, chosen in rows.items():
            if (chosen & owned).any():
                strands.append(
                    _Strand(feeder.name, role, features_by_unit(numbers[i], chosen & owned, units))
                )
    return strands


def _feed_forward_strands(probe: Probe, numbers: Sequence[Tensor], units: int) -> list[_Strand]:
    """One strand for each row that a neuron has: gate and up apart, fused or not."""
    slots = []
    for i, feeder in enumerate(probe.feeders):
        features = features_by_unit(numbers[i], numbers[i] >= 0, units)
        columns = [None] if features is None else features.unbind(1)
        slots += [(i, feeder.name, column) for column in columns]
    alone = len(slots) == 1
    return [
        _Strand(
            name,
            "gate" if not alone and column is not None and _bends(probe, i, column) else "up",
            None if column is None else column[:, None],
        )
        for i, name, column in slots
    ]


def _bends(probe: Probe, feeder: int, rows: Tensor) -> bool:
    """Whether the consumer's input is nonlinear in these rows: a gate is, what it gates is not."""
    leaf = probe.feeders[feeder].leaf
    hidden = probe.consumer.input
    (slope,) = torch.autograd.grad(
        hidden, leaf, torch.ones_like(hidden), create_graph=True, retain_graph=True
    )
    if not slope.requires_grad:
        return False
    (bend,) = torch.autograd.grad(
        slope[..., rows.to(leaf.device)].sum(), leaf, retain_graph=True, materialize_grads=True
    )
    return bool((bend[..., rows.to(leaf.device)] != 0).any())


def _shared_path(consumer: Call, feeders: Sequence[Call]) -> str:
    """The dotted path that all the projections of a block have in common."""
    paths = [call.name.split(".") for call in (consumer, *feeders)]
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)
