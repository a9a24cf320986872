"""The search finds the sparsity that meets a wish, and says when there is none."""

from __future__ import annotations

import pytest

from hf_td.wishes.search import RESOLUTION, largest_sparsity, least_sparsity


class Counted:
    """A function that remembers where it was called."""

    def __init__(self, function):
        self.function, self.at = function, []

    def __call__(self, sparsity):
        self.at.append(sparsity)
        return self.function(sparsity)


@pytest.mark.parametrize("wanted", [0.9, 0.5, 0.35])
@pytest.mark.parametrize(
    "function",
    [lambda s: 1 - 0.7 * s, lambda s: 1 - 0.7 * s**2, lambda s: 1 - 0.7 * round(8 * s) / 8],
    ids=["line", "curve", "steps"],
)
def test_the_least_sparsity_meets_the_wish_and_one_below_does_not(function, wanted):
    measure = Counted(function)
    found, met = least_sparsity(measure, wanted, close=0.01)
    assert met
    assert found.value == function(found.sparsity) <= wanted
    near = found.value >= 0.99 * wanted
    assert near or function(found.sparsity - RESOLUTION) > wanted
    assert len(measure.at) < 40


def test_a_line_is_found_at_once():
    measure = Counted(lambda s: 1 - 0.7 * s)
    least_sparsity(measure, 0.5, close=0.01)
    assert len(measure.at) == 3  # both ends, and the guess between them


def test_what_is_met_already_takes_nothing_and_what_cannot_be_says_the_most():
    assert least_sparsity(lambda s: 1 - s / 2, 1.0) == ((0.0, 1.0), True)
    assert least_sparsity(lambda s: 1 - s / 2, 0.4) == ((1.0, 0.5), False)


def test_the_largest_sparsity_keeps_the_loss():
    allowed, refused = largest_sparsity(lambda s: s**2, 0.3)
    assert allowed is not None
    assert refused is not None
    assert allowed.value <= 0.3 < refused.value
    assert refused.sparsity - allowed.sparsity <= RESOLUTION
    assert largest_sparsity(lambda s: 0.0, 0.01) == ((1.0, 0.0), None)
    allowed, refused = largest_sparsity(lambda s: 0.3 + s, 0.01)
    assert allowed is None
    assert refused is not None
    assert refused.sparsity <= RESOLUTION
