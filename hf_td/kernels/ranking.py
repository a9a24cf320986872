"""Draws the masks of many weights at once; chooses by device and type what computes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from hf_td.kernels import cpu, cuda
from hf_td.kernels.ranked import Drawn, Ranked


class Ranking:
    """Weights that are ranked together, update after update.

    The masks are those of `functional`: on the CPU bit for bit, on CUDA with draws of another
    generator where the drop rate is below 1.

    Args:
        ranked: weights, also of several devices.
    """

    def __init__(self, ranked: Sequence[Ranked]) -> None:
        self._ranked = list(ranked)
        self._places = [one.weight.data_ptr() for one in ranked]
        self._parts: list[tuple[list[int], Draw]] = []
        left = range(len(ranked))
        for prepare, supports in _IMPLEMENTATIONS:
            taken = [i for i in left if supports(ranked[i])]
            left = [i for i in left if not supports(ranked[i])]
            if taken:
                self._parts.append((taken, prepare([ranked[i] for i in taken])))

    def is_of(self, ranked: Sequence[Ranked]) -> bool:
        """Whether it is that of these weights, and they lie where they lay."""
        return len(ranked) == len(self._ranked) and all(
            one.is_as(own) and own.weight.data_ptr() == place
            for one, own, place in zip(ranked, self._ranked, self._places, strict=True)
        )

    def draw(self, fraction: float, drop_rate: float) -> list[Drawn]:
        """The masks of an update.

        Args:
            fraction: the targeting (gamma), in [0, 1).
            drop_rate: alpha, the probability that a candidate is dropped, in [0, 1].

        Returns:
            The mask of each weight.
        """
        drawn: dict[int, Drawn] = {}
        for places, draw in self._parts:
            drawn.update(zip(places, draw(fraction, drop_rate), strict=True))
        return [drawn[i] for i in range(len(self._ranked))]


def _plain(ranked: Sequence[Ranked], fraction: float, drop_rate: float) -> list[Drawn]:
    return [Drawn(one.keep_mask(fraction, drop_rate)) for one in ranked]


# Gives the masks of an update, at a fraction and a drop rate.
Draw = Callable[[float, float], Iterable[Drawn]]
# The first that supports a weight takes it.
_IMPLEMENTATIONS: tuple[
    tuple[Callable[[Sequence[Ranked]], Draw], Callable[[Ranked], bool]], ...
] = (
    (cuda.prepare, cuda.supports),
    (lambda ranked: partial(cpu.keep_masks, ranked), cpu.supports),
    (lambda ranked: partial(_plain, ranked), lambda _: True),
)
