"""Measures what heads and neurons cost on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from hf_td.analysis.record import environment
from hf_td.analysis.timing import seconds_of
from hf_td.anatomy import Anatomy, Block, Holder, evaluating, find_layer
from hf_td.anatomy.blocks import pattern_of
from hf_td.anatomy.given import anatomy_of
from hf_td.compaction.runs import trial_runs_of
from hf_td.compaction.surgery import cut_parameters, new_counts
from hf_td.compaction.trial import fixed_heads, swap
from hf_td.hub.card.latency import hardware_of
from hf_td.hub.export import shell_of
from hf_td.pruning.times import Curve, Times
from hf_td.wishes.inputs import shape_of, sized_inputs, threads_of_torch

# Neurons are measured at multiples of this number, as compact models have them.
_STEP = 8


def measure_times(
    model: nn.Module,
    *,
    batch: int = 1,
    length: int = 128,
    threads: int | None = None,
    points: int = 6,
    rounds: int = 7,
    anatomy: Anatomy | None = None,
    example_inputs: Mapping[str, Any] | None = None,
) -> Times:
    """Time a model's forward with fewer heads, and with narrower feed-forward parts.

    In each round every variant is timed once, beside the whole model: what slows the machine for a
    while slows all of them. All blocks that differ only in the index of their layer are cut
    together, so caches are as cold as in a real forward. A table takes `rounds` times two forwards
    for each point of each kind of block.

    Args:
        model: on the device and in the dtype that are to be timed; it is not changed.
        batch: number of rows of the inputs.
        length: number of tokens of each row.
        threads: of torch, while it is timed; None leaves their number.
        points: number of widths that are measured of each kind of block, at least 2.
        rounds: timed rounds, at least 1; the medians count.
        anatomy: what `read_anatomy(model)` returned; None reads the model.
        example_inputs: keyword arguments of one forward, to time that in place of `batch` and
            `length`.

    Returns:
        The table, for `prune_model(model, sparsity, budget="global", of="latency", times=...)`.
        Neurons inside experts are not in it.

    Raises:
        ValueError: a number is out of range, or the model does not run on such inputs.
    """
    if points < 2 or rounds < 1:
        raise ValueError(f"a curve takes 2 points and 1 round, got {points} and {rounds}")
    shell: Any = shell_of(model)
    anatomy = anatomy_of(shell, anatomy, example_inputs)
    inputs = dict(example_inputs or sized_inputs(shell, batch, length))
    kinds = _kinds(shell, anatomy, example_inputs)
    variants = [(kind, n) for kind in kinds for n in counts_of(kind[0], points)]
    with torch.no_grad(), evaluating(shell), threads_of_torch(threads):
        whole, shares = _time(shell, inputs, variants, rounds)
        used = torch.get_num_threads()
    timed = [(k, n, share * whole) for (k, n), share in zip(variants, shares, strict=True)]
    measured = [(kind, {n: time for k, n, time in timed if k is kind}) for kind in kinds]
    first = next(shell.parameters())
    return Times(
        whole=whole,
        curves=tuple(_curve(kind, points, whole) for kind, points in measured),
        shape=shape_of(inputs),
        dtype=str(first.dtype).removeprefix("torch."),
        device=first.device.type,
        threads=used,
        hardware=hardware_of(first.device),
        environment=environment(),
    )


def _kinds(
    model: nn.Module, anatomy: Anatomy, example_inputs: Mapping[str, Any] | None
) -> list[list[Block]]:
    """Group the blocks whose units can be taken out; experts and fixed heads are left out."""
    free = [b for b in anatomy.blocks if b.obstacle is None and b.units > 1]
    free = [b for b in free if find_layer(model, b.consumer.module).weight.dim() == 2]
    heads = [block for block in free if block.part == "attention"]
    fixed = fixed_heads(model, heads, trial_runs_of(model, anatomy, example_inputs))
    kinds: dict[tuple[str, str, int], list[Block]] = {}
    for block in free:
        if block not in fixed:
            kinds.setdefault((pattern_of(block.name), block.part, block.units), []).append(block)
    return list(kinds.values())


def counts_of(block: Block, points: int) -> list[int]:
    """Return the numbers of units to measure, rising, without that of the whole block."""
    step = _STEP if block.part == "feed_forward" and block.units > _STEP else 1
    even = [step + (block.units - step) * i / (points - 1) for i in range(points)]
    rounded = {max(step, step * round(count / step)) for count in even}
    return sorted(count for count in rounded if count < block.units)


def _time(
    model: nn.Module,
    inputs: Mapping[str, Any],
    variants: Sequence[tuple[list[Block], int]],
    rounds: int,
) -> tuple[float, list[float]]:
    """Return the milliseconds of the whole model, and each variant's share of them."""
    device = next(model.parameters()).device

    def milliseconds() -> float:
        model(**inputs)  # warms up
        return 1000 * min(seconds_of(lambda: model(**inputs), device) for _ in range(2))

    milliseconds()
    wholes: list[float] = []
    shares: list[list[float]] = [[] for _ in variants]
    for _ in range(rounds):
        for (kind, count), share in zip(variants, shares, strict=True):
            wholes.append(milliseconds())
            with _cut(model, kind, count):
                share.append(milliseconds() / wholes[-1])
    return median(wholes or [milliseconds()]), [median(share) for share in shares]


@contextmanager
def _cut(model: nn.Module, blocks: Sequence[Block], count: int) -> Iterator[None]:
    """Give blocks so many units in the block of code."""
    kept: dict[Holder, Tensor] = {block: torch.arange(count) for block in blocks}
    smaller = {n: nn.Parameter(t, False) for n, t in cut_parameters(model, kept).items()}
    undo = swap(model, smaller, new_counts(model, kept))
    try:
        yield
    finally:
        swap(model, *undo)


def _curve(kind: Sequence[Block], measured: Mapping[int, float], whole: float) -> Curve:
    """Return the curve of a kind of block from the times of the model with so many units in each.

    More units never take less time: where noise says so, the smaller time counts for both.
    """
    block = kind[0]
    points = {**measured, block.units: whole}
    falling = list(accumulate((points[n] for n in sorted(points, reverse=True)), min))
    rising = falling[::-1]
    return Curve(
        block=pattern_of(block.name),
        part=block.part,
        units=block.units,
        blocks=len(kind),
        counts=tuple(sorted(points)),
        milliseconds=tuple((time - rising[0]) / len(kind) for time in rising),
    )
