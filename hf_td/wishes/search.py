"""Searches the sparsity at which a measured value meets a wish."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

# The search ends at this width of the interval of sparsities.
RESOLUTION = 1 / 256
# A guess stays this far from the ends of the interval, as a fraction of its width, so that every
# step narrows it.
_MARGIN = 0.1


class Found(NamedTuple):
    """A sparsity and the value that was measured at it."""

    sparsity: float
    value: float


def least_sparsity(
    measure: Callable[[float], float], most: float, *, close: float = 0.01
) -> tuple[Found, bool]:
    """Search the least sparsity with a value of at most `most`.

    Args:
        measure: returns the value at a sparsity in [0, 1]; about a falling line.
        most: the largest value that is wanted.
        close: the search ends at a value between `(1 - close) * most` and `most`.

    Returns:
        The sparsity and its value, and True; or, if not even sparsity 1 meets the wish, that and
        False.
    """
    low, high = Found(0.0, measure(0.0)), Found(1.0, 0.0)
    if low.value <= most:
        return low, True
    high = Found(1.0, measure(1.0))
    if high.value > most:
        return high, False
    while high.sparsity - low.sparsity > RESOLUTION and high.value < (1 - close) * most:
        guess = _between(low, high, (1 - close / 2) * most)
        found = Found(guess, measure(guess))
        low, high = (low, found) if found.value <= most else (found, high)
    return high, True


def _between(low: Found, high: Found, aim: float) -> float:
    """Return the sparsity at which the line through two points has the value `aim`."""
    share = (low.value - aim) / max(low.value - high.value, 1e-12)
    share = min(max(share, _MARGIN), 1 - _MARGIN)
    return low.sparsity + share * (high.sparsity - low.sparsity)


def largest_sparsity(
    measure: Callable[[float], float], most: float
) -> tuple[Found | None, Found | None]:
    """Search the largest sparsity with a value of at most `most`, by bisection.

    Args:
        measure: returns the value at a sparsity in (0, 1]; it rises.
        most: the largest value that is allowed.

    Returns:
        The largest sparsity that was found to be allowed, and the least that was not, with their
        values; None where there is none.
    """
    refused = Found(1.0, measure(1.0))
    if refused.value <= most:
        return refused, None
    allowed: Found | None = None
    while refused.sparsity - (low := allowed.sparsity if allowed else 0.0) > RESOLUTION:
        middle = (refused.sparsity + low) / 2
        found = Found(middle, measure(middle))
        allowed, refused = (found, refused) if found.value <= most else (allowed, found)
    return allowed, refused
