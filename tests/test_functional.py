"""Targeted dropout on plain tensors equals slow loops and numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from hf_td import functional
from hf_td.functional import Cut, Rule

fractions = st.floats(0, 1)
rates = st.floats(0, 1)
seeds = st.integers(0, 2**31)
# Few distinct values, so that ties are common.
tied_matrices = st.tuples(st.integers(1, 7), st.integers(1, 7)).flatmap(
    lambda shape: st.lists(
        st.lists(st.integers(0, 4), min_size=shape[1], max_size=shape[1]),
        min_size=shape[0],
        max_size=shape[0],
    )
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def paper_count(total: int, fraction: float) -> int:
    return math.floor(fraction * total + 1e-6)


def paper_candidates(scores: Tensor, fraction: float, dim: int) -> Tensor:
    """Return True strictly below the k-th smallest score of each output unit, by a slow loop."""
    found = torch.zeros(scores.shape, dtype=torch.bool)
    for one_found, one in zip(found.movedim(dim, 0).T, scores.movedim(dim, 0).T, strict=True):
        count = paper_count(len(one), fraction)
        limit = math.inf if count >= len(one) else sorted(one.tolist())[count]
        for i, score in enumerate(one.tolist()):
            one_found[i] = score < limit
    return found


def first_lowest(scores: Tensor, fraction: float, dim: int) -> Tensor:
    """Return True at the lowest scores of each output unit, of equal scores the first."""
    found = torch.zeros(scores.shape, dtype=torch.bool)
    for one_found, one in zip(found.movedim(dim, 0).T, scores.movedim(dim, 0).T, strict=True):
        order = sorted(range(len(one)), key=one.tolist().__getitem__)
        for i in order[: paper_count(len(one), fraction)]:
            one_found[i] = True
    return found


@pytest.mark.parametrize(
    ("total", "fraction", "count"),
    [
        (100, 0.29, 29),  # int(0.29 * 100) is 28
        (16, 0.99, 15),
        (10, 0.0, 0),
        (10, 1.0, 10),
        (3, 1 / 3, 1),
        (3, 2 / 3, 2),
        (768, 0.9, 691),
        (1, 0.999, 0),
        (10, 0.7, 7),
        (10, 0.69, 6),
    ],
)
def test_candidate_count_truncates_without_rounding_error(total, fraction, count):
    assert functional.candidate_count(total, fraction) == count
    scores = torch.rand(3, total, generator=generator())
    assert functional.candidate_mask(scores, fraction).sum(1).tolist() == [count] * 3


@given(hundredths=st.integers(0, 100))
def test_whole_percentages_of_a_hundred_are_exact(hundredths):
    assert functional.candidate_count(100, hundredths / 100) == hundredths


@given(tied_matrices, fractions, st.sampled_from([0, 1, -1, -2]))
def test_candidates_equal_those_of_the_paper(values, fraction, dim):
    scores = torch.tensor(values, dtype=torch.float)
    found = functional.candidate_mask(scores, fraction, dim)
    assert_close(found, paper_candidates(scores, fraction, dim))


@given(tied_matrices, fractions, st.sampled_from([0, 1, -1, -2]))
def test_break_ties_adds_the_first_of_equal_scores_up_to_the_exact_count(values, fraction, dim):
    scores = torch.tensor(values, dtype=torch.float)
    found = functional.candidate_mask(scores, fraction, dim, break_ties=True)
    assert_close(found, first_lowest(scores, fraction, dim))
    assert (found.sum(dim) == paper_count(scores.shape[dim], fraction)).all()


@given(seeds, fractions, st.sampled_from([0, 1]))
def test_break_ties_changes_nothing_where_scores_differ(seed, fraction, dim):
    scores = torch.randperm(42, generator=generator(seed)).view(6, 7).float()
    exact = functional.candidate_mask(scores, fraction, dim, break_ties=True)
    assert_close(functional.candidate_mask(scores, fraction, dim), exact)


@pytest.mark.parametrize("value", [0.0, 3.0])
@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.99, 1.0])
def test_constant_scores_yield_the_exact_count_only_with_break_ties(value, fraction):
    scores = torch.full((4, 10), value)
    exact = functional.candidate_mask(scores, fraction, break_ties=True)
    loose = functional.candidate_mask(scores, fraction)
    assert exact.sum(1).tolist() == [paper_count(10, fraction)] * 4
    assert loose.any() == (fraction == 1)


def test_candidates_of_a_vector_and_of_bfloat16():
    scores = torch.tensor([3.0, 1.0, 2.0, 0.0], dtype=torch.bfloat16)
    found = functional.candidate_mask(scores, 0.5, 0)
    assert found.tolist() == [False, True, False, True]
    assert found.dtype == torch.bool


def test_slices_are_ranked_separately():
    scores = torch.tensor([[1.0, 2.0], [10.0, 20.0]])
    assert functional.candidate_mask(scores, 0.5, 1).tolist() == [[True, False], [True, False]]
    assert functional.candidate_mask(scores, 0.5, 0).tolist() == [[True, True], [False, False]]


def cut(cutoff: Tensor, rate: float = 1.0, key: int = 5, scale: Tensor | None = None) -> Cut:
    numbers = functional.draw_of(key, functional.drop_threshold(rate))
    return Cut(cutoff, torch.tensor(numbers), scale)


def half_cut(weight: Tensor, rate: float = 1.0, key: int = 5, dim: int = 1) -> Cut:
    """Return a cut that makes half of each row candidates."""
    return cut(functional.cutoffs(weight.detach().abs(), 0.5, dim), rate, key)


@given(tied_matrices, fractions, st.sampled_from([0, 1]))
def test_the_scores_below_the_cut_offs_are_the_candidates(values, fraction, dim):
    scores = torch.tensor(values, dtype=torch.float)
    limits = functional.cutoffs(scores, fraction, dim)
    assert limits.shape[dim] == 1
    assert_close(scores < limits, paper_candidates(scores, fraction, dim))


def test_rate_0_drops_nothing_and_rate_1_all_candidates():
    weight = torch.randn(5, 10, generator=generator())
    assert not functional.is_dropped(weight, half_cut(weight, 0.0), Rule(1)).any()
    dropped = functional.is_dropped(weight, half_cut(weight, 1.0), Rule(1))
    assert_close(dropped, functional.candidate_mask(weight.abs(), 0.5))


@given(rates, seeds)
def test_weights_that_are_not_candidates_are_never_dropped(rate, seed):
    weight = torch.randn(20, 30, generator=generator(1))
    dropped = functional.is_dropped(weight, half_cut(weight, rate, seed), Rule(1))
    assert not dropped[~functional.candidate_mask(weight.abs(), 0.5)].any()


@pytest.mark.parametrize("rate", [0.01, 0.33, 0.5, 0.75, 0.99])
@pytest.mark.parametrize("total", [40_000, 40_003])
def test_the_drop_rate_is_the_share_of_dropped_candidates(rate, total):
    everything = cut(torch.tensor([torch.inf]), rate, 3)
    dropped = int(functional.is_dropped(torch.ones(total), everything, Rule(0)).sum())
    assert abs(dropped - rate * total) < 5 * math.sqrt(total * rate * (1 - rate))


@pytest.mark.parametrize("key", [0, 1, -(1 << 60), (1 << 40) + 17])
def test_draws_are_independent_of_their_neighbours(key):
    drawn = functional.draws((40_000,), cut(torch.zeros(1), 1.0, key).draw) < 1 << 15
    for lag in (1, 2, 3, 4, 5, 8, 384, 768):
        agree = int((drawn[lag:] == drawn[:-lag]).sum())
        assert abs(agree - (40_000 - lag) / 2) < 5 * math.sqrt(40_000 / 4)


@pytest.mark.parametrize("parts", [(6,), (5, 0), (5, 1), (-5,)])
def test_draws_of_another_key_are_independent(parts):
    ours, theirs = (
        functional.draws((40_000,), cut(torch.zeros(1), 1.0, functional.draw_key(*key)).draw)
        for key in ((5,), parts)
    )
    agree = int(((ours < 1 << 15) == (theirs < 1 << 15)).sum())
    assert abs(agree - 20_000) < 5 * math.sqrt(40_000 / 4)


def test_all_draws_are_equally_likely():
    drawn = functional.draws((1 << 20,), cut(torch.zeros(1), 1.0, 9).draw)
    assert (int(drawn.min()), int(drawn.max())) == (0, (1 << 16) - 1)
    counts = torch.bincount(drawn >> 8, minlength=256).double()
    expected = (1 << 20) / 256
    assert ((counts - expected).square() / expected).sum() < 256 + 5 * math.sqrt(2 * 256)


def mixed(word: int, key: int) -> int:
    """Return the mixing function of the draws on one integer."""
    low, high = key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF
    word ^= low
    word = (word ^ word >> 16) * 0x7FEB352D & 0xFFFFFFFF
    word = ((word ^ word >> 15) + high) * 0x846CA68B & 0xFFFFFFFF
    return word ^ word >> 16


@given(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(1, 9))
def test_draws_are_a_function_of_key_and_position(key, total):
    drawn = functional.draws((total,), cut(torch.zeros(1), 1.0, key).draw).tolist()
    assert drawn == [mixed(i >> 1, key) >> 16 * (i & 1) & 0xFFFF for i in range(total)]
    scores = functional.random_scores((total,), key).tolist()
    assert scores == [(mixed(i, key) >> 8) / (1 << 24) for i in range(total)]


def test_draws_depend_on_the_key_alone():
    weight = torch.randn(64, 64, generator=generator())
    state = torch.get_rng_state()
    first = functional.is_dropped(weight, half_cut(weight, 0.5, 5), Rule(1))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    assert_close(functional.is_dropped(weight, half_cut(weight, 0.5, 5), Rule(1)), first)
    assert not torch.equal(functional.is_dropped(weight, half_cut(weight, 0.5, 6), Rule(1)), first)


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_masked_equals_a_slow_loop_forward_and_backward(dim, rate):
    weight = torch.randn(4, 6, generator=generator(3), requires_grad=True)
    scale = torch.rand((4, 6)[dim], generator=generator(2))
    sizes = weight.detach().abs() * scale.unsqueeze(1 - dim)
    limits = functional.cutoffs(sizes, 0.5, dim)
    one = cut(limits, rate, 8, scale)
    upstream = torch.randn(4, 6, generator=generator(4))
    result = functional.masked(weight, one, Rule(dim))
    result.backward(upstream)
    assert weight.grad is not None
    drawn = functional.draws((4, 6), one.draw)
    for i in range(4):
        for j in range(6):
            limit = float(limits[i, 0] if dim else limits[0, j])
            is_candidate = float(sizes[i, j]) < limit
            keeps = not (is_candidate and int(drawn[i, j]) < round(rate * 65536))
            assert result[i, j].item() == weight[i, j].item() * keeps
            assert weight.grad[i, j].item() == upstream[i, j].item() * keeps


def test_masked_accumulates_over_several_uses_and_does_not_change_the_incoming_gradient():
    weight = torch.tensor([1.0, 0.5, 1.0], requires_grad=True)
    one = cut(torch.tensor([0.75]))
    upstream = torch.tensor([1.0, 2.0, 3.0])
    uses = [functional.masked(weight, one, Rule(0)) for _ in range(2)]
    torch.autograd.backward(uses, [upstream] * 2)
    assert_close(weight.grad, torch.tensor([2.0, 0.0, 6.0]))
    assert upstream.tolist() == [1.0, 2.0, 3.0]


def test_masked_has_correct_first_and_second_derivatives():
    weight = torch.randn(3, 4, dtype=torch.float64, generator=generator(), requires_grad=True)
    at = half_cut(weight)
    one = at._replace(cutoff=at.cutoff * 0.99)  # far enough from any weight to differentiate

    def squared(w: Tensor) -> Tensor:
        return functional.masked(w, one, Rule(1)) ** 2

    assert torch.autograd.gradcheck(squared, (weight,))
    assert torch.autograd.gradgradcheck(squared, (weight,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_masked_keeps_the_dtype_of_the_weight(dtype):
    weight = torch.tensor([0.5, 1, 1, 0.5]).to(dtype).requires_grad_()
    result = functional.masked(weight, cut(torch.tensor([0.75])), Rule(0))
    result.sum().backward()
    assert weight.grad is not None
    assert result.dtype == weight.grad.dtype == dtype
    assert result.tolist() == weight.grad.tolist() == [0, 1, 1, 0]


def test_nan_is_not_a_candidate():
    weight = torch.tensor([[math.nan, 1.0, 2.0, 3.0]])
    dropped = functional.is_dropped(weight, cut(torch.tensor([[1.5]])), Rule(1))
    assert dropped.tolist() == [[False, True, False, False]]


def test_random_scores_do_not_depend_on_the_weight():
    rule = Rule(1, random_key=7)
    scores = functional.weight_scores(torch.zeros(3, 50), None, rule)
    assert torch.equal(scores, functional.random_scores((3, 50), 7))
    assert 0 <= float(scores.min()) < float(scores.max()) < 1


def test_a_pattern_allows_the_lowest_of_each_group_of_neighbours():
    weight = torch.tensor([[4.0, 1.0, 3.0, 2.0, 8.0, 5.0, 7.0, 6.0]])
    scores = functional.weight_scores(weight, None, Rule(1, (2, 4)))
    assert scores.tolist() == [[math.inf, 1, math.inf, 2, math.inf, 5, math.inf, 6]]


@settings(max_examples=30)
@given(seeds, st.integers(1, 6), st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_unit_norms_equal_the_norm_of_everything_that_produces_a_unit(seed, units, widths):
    draws = generator(seed)
    weights = [torch.randn(units, width, 4, generator=draws) for width in widths]
    norms = functional.unit_norms([w.norm(dim=2) for w in weights])
    everything = np.concatenate([w.flatten(1).numpy() for w in weights], axis=1)
    assert_close(norms, torch.from_numpy(np.linalg.norm(everything, axis=1)))
