"""Draws the masks of many weights at once; chooses by device and type what computes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import repeat

from hf_td.kernels import cpu, cuda
from hf_td.kernels.ranked import Drawn, Order, Ranked


class Ranking:
    """Weights that are ranked together, update after update, as long as they lie where they lie.

    The masks are those of `functional`: on the CPU bit for bit, on CUDA with draws of another
    generator where the drop rate is below 1.

    Args:
        ranked: weights, also of several devices.
    """

    def __init__(self, ranked: Sequence[Ranked]) -> None:
        self._ranked = tuple(ranked)  # so that nothing else comes to lie in their places
        self._parts: list[tuple[list[int], Draw]] = []
        left = range(len(ranked))
        for prepare, supports in _IMPLEMENTATIONS:
            taken = [i for i in left if supports(ranked[i])]
            left = [i for i in left if not supports(ranked[i])]
            if taken:
                self._parts.append((taken, prepare([ranked[i] for i in taken])))

    def draw(self, order: Order) -> list[Drawn]:
        """The mask of each weight, as an update wants them."""
        drawn: dict[int, Drawn] = {}
        for places, draw in self._parts:
            drawn.update(zip(places, draw(order.of(places)), strict=True))
        return [drawn[place] for place in range(len(self._ranked))]


def _plain(ranked: Sequence[Ranked], order: Order) -> list[Drawn]:
    keys = order.keys or repeat(0)
    every = zip(ranked, keys, strict=False)
    return [Drawn(one.keep_mask(order.fraction, order.drop_rate, key)) for one, key in every]


# Gives the masks of an update.
Draw = Callable[[Order], Iterable[Drawn]]
# The first that supports a weight takes it.
_IMPLEMENTATIONS: tuple[
    tuple[Callable[[Sequence[Ranked]], Draw], Callable[[Ranked], bool]], ...
] = (
    (cuda.prepare, cuda.supports),
    (lambda ranked: partial(cpu.keep_masks, ranked), cpu.supports),
    (lambda ranked: partial(_plain, ranked), lambda _: True),
)
