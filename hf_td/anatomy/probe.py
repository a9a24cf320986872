"""Proves on the model which features of its projections belong to which unit.

A random gradient is sent back through chosen channels of a consumer's input. The rows of the
producers that receive some are those that feed these channels. A unit is the smallest run of
channels whose rows feed no channel outside of the run. To number the rows, each unit takes part in
its own choice of backward passes.
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
from hf_td.anatomy.trace import Call, FreeParameter

SHARED_HEADS = "its query heads share one key and value head, so there is one unit"
SHARED_KEYS = "its heads share keys, so there is one unit"
MIXED_HEADS = "its heads are mixed, as by a norm over all of them at once, so there is one unit"
# The largest difference that rounding explains between attention weights of one head.
_ONE_HEAD = 1e-3
_ORDER: tuple[Role, ...] = ("q", "k", "v", "gate", "up")


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
        generator = torch.Generator().manual_seed(1)
        return torch.rand(self.consumer.input.shape, generator=generator) + 0.5

    def units_of_channels(self, units: int) -> Tensor:
        """Return the unit of each channel, `(channels,)`, if the channels have `units` units."""
        return self.channels // (len(self.channels) // units)

    def reached(self, choice: Tensor) -> list[Tensor]:
        """Return for each feeder which rows feed the chosen channels, boolean `(rows,)`."""
        return [g.flatten(0, -2).any(0).cpu() for g in self._send_back(choice)]

    def reached_slices(self, leaf: Tensor, dim: int) -> Callable[[Tensor], list[Tensor]]:
        """Return a function like `reached` for the slices of one parameter along `dim`."""

        def reached(choice: Tensor) -> list[Tensor]:
            (grad,) = self._send_back(choice, [leaf])
            return [(grad != 0).movedim(dim, -1).reshape(-1, leaf.shape[dim]).any(0).cpu()]

        return reached

    def tokens_reached(self) -> list[Tensor]:
        """Return for each row of a feeder how many tokens feed the consumer's last token."""
        gradients = self._send_back(torch.ones_like(self.channels), one_token=True)
        return [(g != 0).flatten(0, -2).cpu().sum(0) for g in gradients]

    def token_weights(self, feeder: int) -> Tensor:
        """Return how each row of a feeder is weighted over the tokens, `(tokens, rows)`."""
        gradient = self._send_back(torch.ones_like(self.channels), one_token=True)[feeder]
        weights = gradient.detach().flatten(0, -2).float().cpu()
        return weights / weights.sum(0)

    def bends(self, feeder: int, rows: Tensor) -> bool:
        """Return True if the consumer's input is nonlinear in some rows of a feeder."""
        return bends(self.consumer.input, self.feeders[feeder].leaf, rows, -1)

    def _send_back(
        self, choice: Tensor, leaves: Sequence[Tensor] | None = None, one_token: bool = False
    ) -> Sequence[Tensor]:
        hidden = self.consumer.input
        upstream = (self._noise * choice).flatten(0, -2)
        if one_token:
            upstream[:-1] = 0
        return torch.autograd.grad(
            hidden,
            [feeder.leaf for feeder in self.feeders] if leaves is None else leaves,
            upstream.view(hidden.shape).to(hidden.device, hidden.dtype),
            retain_graph=True,
            materialize_grads=True,
        )


def prove_block(
    consumer: Call,
    feeders: Sequence[Call],
    parameters: Callable[[], Iterable[FreeParameter]] = tuple,
) -> Block | None:
    """Return the block that ends in `consumer`, or None if no split into units can be proven.

    Args:
        consumer: the call whose input channels are split into units.
        feeders: the calls that feed it.
        parameters: returns the parameters outside of linear layers that feed it.
    """
    probe = Probe(consumer, feeders)
    units = _count_units(probe.channels, probe.reached)
    if units is None:
        return None
    sizes = [feeder.leaf.shape[-1] for feeder in feeders]
    numbers = number_rows(probe.units_of_channels(units), probe.reached, sizes, units)
    tokens = probe.tokens_reached()
    part: Part = "feed_forward"
    producers = None
    if any(bool((count > 1).any()) for count in tokens):
        part, producers = "attention", _attention_producers(probe, numbers, tokens, units)
    elif units == len(probe.channels) > 1:
        names = [feeder.name for feeder in feeders]
        producers = neuron_producers(names, numbers, units, probe.bends)
    if producers is None:
        return None
    producers.sort(key=lambda p: _ORDER.index(p.role))
    reader: Role = "o" if part == "attention" else "down"
    one = _one_unit(probe, producers) if part == "attention" and units == 1 else None
    return Block(
        name=_shared_path(consumer, feeders),
        part=part,
        units=units,
        producers=tuple(producers),
        consumer=Projection(consumer.name, reader, probe.channels.view(units, -1)),
        companions=tuple(c for p in parameters() for c in _companions(probe, p, units)),
        obstacle=one or _scattered(producers),
    )


def agrees(block: Block, consumer: Call, feeders: Sequence[Call]) -> bool:
    """Return True if the units of a block consist of exactly the features that it says.

    Args:
        block: a description by a user.
        consumer: the call of its consumer.
        feeders: the calls of its producers, in their order.
    """
    probe = Probe(consumer, feeders)
    if block.obstacle is not None:  # claims no units, only that the consumer reads these layers
        return all(bool(hit.all()) for hit in probe.reached(torch.ones_like(probe.channels)))
    sizes = [feeder.leaf.shape[-1] for feeder in feeders]
    numbers = number_rows(probe.units_of_channels(block.units), probe.reached, sizes, block.units)
    unit = torch.arange(block.units)[:, None]
    return all(
        bool((number[p.features] == unit).all())
        for number, p in zip(numbers, block.producers, strict=True)
    )


def _scattered(producers: Sequence[Projection]) -> str | None:
    """Return an obstacle if a fused layer holds its units in groups of a fixed size.

    A forward that splits the rows into such groups cannot run with incomplete groups.
    """
    fused = Counter(p.module for p in producers)
    for producer in producers:
        steps = producer.features[:, 0].diff()
        if fused[producer.module] > 1 and len(steps) and bool((steps != steps[0]).any()):
            return f"{producer.module} holds them in groups that its forward expects to be whole"
    return None


def _one_unit(probe: Probe, producers: Sequence[Projection]) -> str | None:
    """Return the reason why several heads are one unit; None if there is just one head."""
    rows: Counter[Role] = Counter()
    for producer in producers:
        rows[producer.role] += producer.features.numel()
    if rows["q"] == rows["k"] and not _several_heads(probe, producers):
        return None
    names = [feeder.name for feeder in probe.feeders]
    queries = [
        (names.index(p.module), p.features.flatten()) for p in producers if p.role == "q"
    ]  # several layers may give them

    def reached(choice: Tensor) -> list[Tensor]:
        hits = probe.reached(choice)
        return [hits[feeder][features] for feeder, features in queries]

    if (_count_units(probe.channels, reached) or 1) == 1:
        return MIXED_HEADS
    return SHARED_HEADS if rows["v"] < len(probe.channels) else SHARED_KEYS


def _several_heads(probe: Probe, producers: Sequence[Projection]) -> bool:
    """Return True if the value rows are not all weighted alike over the tokens."""
    values = next(p for p in producers if p.role == "v")
    feeder = [feeder.name for feeder in probe.feeders].index(values.module)
    weights = probe.token_weights(feeder)[:, values.features.flatten()]
    return bool((weights - weights[:, :1]).abs().max() > _ONE_HEAD)


def _count_units(channels: Tensor, reached: Callable[[Tensor], list[Tensor]]) -> int | None:
    """Return the number of units in the finest split into equal runs whose rows do not overlap.

    Args:
        channels: indices of the consumer's input features.
        reached: returns for each feeder which rows feed the chosen channels, boolean `(rows,)`.

    Returns:
        1 if there is no such split, as in attention whose query heads share one key head. None if
        every channel depends on every row.
    """
    width = len(channels)
    one = reached(channels == 0)
    if all(bool(hit.all()) for hit in one):
        return None  # everything is mixed, as behind a norm: the common case
    for size in (n for n in range(1, width) if width % n == 0):
        rest = reached(channels >= size)
        if _overlap(one, rest):
            continue  # so the rows of the whole run overlap too
        first = reached(channels < size)
        if all(hit.any() for hit in first) and not _overlap(first, rest):
            return width // size
    return 1


def _overlap(first: Sequence[Tensor], rest: Sequence[Tensor]) -> bool:
    return any(bool((f & r).any()) for f, r in zip(first, rest, strict=True))


def number_rows(
    unit: Tensor, reached: Callable[[Tensor], list[Tensor]], sizes: Sequence[int], units: int
) -> list[Tensor]:
    """Return the unit of each row of each source, `(rows,)`; -1 for a row of none or several.

    Each unit takes part in equally many passes, and no two units in the same passes. So a row of
    one unit is reached in exactly that many passes, and a row of several units in more.

    Args:
        unit: `(channels,)`, the unit of each input channel of the consumer.
        reached: returns for each source which rows feed the chosen channels.
        sizes: the number of rows of each source.
        units: number of units.
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
    """Return all numbers of `bits` bits of which `ones` are set, in order."""
    counts = torch.zeros(1, dtype=torch.uint8)
    for _ in range(bits):
        counts = torch.cat([counts, counts + 1])
    return (counts == ones).nonzero().flatten()


def _companions(probe: Probe, parameter: FreeParameter, units: int) -> Iterator[Companion]:
    """Yield each dimension of a parameter that has slices for every unit."""
    for dim, size in enumerate(parameter.leaf.shape):
        if size % units == 0:
            reached = probe.reached_slices(parameter.leaf, dim)
            (number,) = number_rows(probe.units_of_channels(units), reached, [size], units)
            features = _by_unit(number, number >= 0, units)
            if features is not None:
                yield Companion(parameter.name, dim, features)


def _by_unit(number: Tensor, rows: Tensor, units: int) -> Tensor | None:
    """Return the chosen rows by unit, `(units, per_unit)`; None if units differ in their number."""
    counts = torch.bincount(number[rows], minlength=units)
    if len(counts) != units or not bool((counts == counts[0]).all()) or int(counts[0]) == 0:
        return None
    chosen = rows.nonzero().flatten()
    return chosen[number[chosen].argsort(stable=True)].view(units, -1)


def _attention_producers(
    probe: Probe, numbers: Sequence[Tensor], tokens: Sequence[Tensor], units: int
) -> list[Projection] | None:
    """Return queries, keys and values; None if one is missing or unevenly spread over the heads.

    A query row feeds one token. A key row feeds every channel of its head, a value row one.
    """
    offset = probe.channels % (len(probe.channels) // units)
    first, second = probe.reached(offset == 0), probe.reached(offset == 1)
    producers = []
    for i, feeder in enumerate(probe.feeders):
        owned, many = numbers[i] >= 0, tokens[i] > 1
        key = many & first[i] & second[i]
        rows: dict[Role, Tensor] = {"q": tokens[i] == 1, "k": key, "v": many & ~key}
        for role, chosen in rows.items():
            if (chosen & owned).any():
                features = _by_unit(numbers[i], chosen & owned, units)
                if features is None:
                    return None
                producers.append(Projection(feeder.name, role, features))
    return producers if {"q", "k", "v"} <= {p.role for p in producers} else None


def neuron_producers(
    names: Sequence[str],
    numbers: Sequence[Tensor],
    units: int,
    bends: Callable[[int, Tensor], bool],
) -> list[Projection] | None:
    """Return gate and up, fused or not; None if a feeder's rows are unevenly spread over neurons.

    Args:
        names: the feeders.
        numbers: the unit of each row of each feeder, as from `number_rows`.
        units: number of neurons.
        bends: returns True if the neurons are nonlinear in these rows of a feeder. They are
            nonlinear in a gate, and linear in what it multiplies.
    """
    slots: list[tuple[int, Tensor]] = []
    for feeder, number in enumerate(numbers):
        features = _by_unit(number, number >= 0, units)
        if features is None:
            return None
        slots += [(feeder, rows) for rows in features.unbind(1)]
    return [
        Projection(
            names[feeder],
            "gate" if len(slots) > 1 and bends(feeder, rows) else "up",
            rows[:, None],
        )
        for feeder, rows in slots
    ]


def bends(output: Tensor, leaf: Tensor, rows: Tensor, dim: int) -> bool:
    """Return True if `output` is nonlinear in the slices `rows` of `leaf` along `dim`."""
    (slope,) = torch.autograd.grad(output, leaf, torch.ones_like(output), create_graph=True)
    if not slope.requires_grad:
        return False
    index = rows.to(leaf.device)
    (bend,) = torch.autograd.grad(
        slope.index_select(dim, index).sum(), leaf, retain_graph=True, materialize_grads=True
    )
    return bool((bend.index_select(dim, index) != 0).any())


def _shared_path(consumer: Call, feeders: Sequence[Call]) -> str:
    """Return the dotted path that all projections of a block have in common."""
    paths = [call.name.split(".") for call in (consumer, *feeders)]
    levels = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
    return ".".join(parts[0] for parts in levels)
