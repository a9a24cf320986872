"""The method on plain tensors, against slow loops and numpy."""

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
    """Strictly below the k-th smallest of each output unit, one unit after the other."""
    found = torch.zeros(scores.shape, dtype=torch.bool)
    for one_found, one in zip(found.movedim(dim, 0).T, scores.movedim(dim, 0).T, strict=True):
        count = paper_count(len(one), fraction)
        limit = math.inf if count >= len(one) else sorted(one.tolist())[count]
        for i, score in enumerate(one.tolist()):
            one_found[i] = score < limit
    return found


def first_lowest(scores: Tensor, fraction: float, dim: int) -> Tensor:
    """The lowest of each output unit; the earlier of two equals goes first."""
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
def test_candidates_are_those_of_the_paper(values, fraction, dim):
    scores = torch.tensor(values, dtype=torch.float)
    found = functional.candidate_mask(scores, fraction, dim)
    assert_close(found, paper_candidates(scores, fraction, dim))


@given(tied_matrices, fractions, st.sampled_from([0, 1, -1, -2]))
def test_break_ties_takes_the_first_of_equals_and_counts_exactly(values, fraction, dim):
    scores = torch.tensor(values, dtype=torch.float)
    found = functional.candidate_mask(scores, fraction, dim, break_ties=True)
    assert_close(found, first_lowest(scores, fraction, dim))
    assert (found.sum(dim) == paper_count(scores.shape[dim], fraction)).all()


@given(seeds, fractions, st.sampled_from([0, 1]))
def test_both_ways_agree_where_scores_differ(seed, fraction, dim):
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


def test_slices_are_ranked_by_themselves():
    scores = torch.tensor([[1.0, 2.0], [10.0, 20.0]])
    assert functional.candidate_mask(scores, 0.5, 1).tolist() == [[True, False], [True, False]]
    assert functional.candidate_mask(scores, 0.5, 0).tolist() == [[True, True], [False, False]]


def test_rate_0_keeps_everything():
    candidates = torch.rand(5, 9, generator=generator()) < 0.7
    assert functional.keep_mask(candidates, 0.0, generator()).all()


def test_rate_1_drops_all_candidates():
    candidates = torch.rand(5, 9, generator=generator()) < 0.7
    assert_close(functional.keep_mask(candidates, 1.0, generator()), ~candidates)


@given(rates, seeds, st.booleans())
def test_what_is_not_targeted_is_never_dropped_nor_scaled(rate, seed, rescale):
    candidates = torch.rand(20, 30, generator=generator(1)) < 0.5
    keep = functional.keep_mask(candidates, rate, generator(seed), rescale=rescale)
    assert (keep[~candidates] == 1).all()


@pytest.mark.parametrize("rate", [0.01, 0.33, 0.5, 0.75, 0.99])
@pytest.mark.parametrize("total", [40_000, 40_003])
def test_the_expected_share_of_candidates_is_dropped(rate, total):
    candidates = torch.ones(total, dtype=torch.bool)
    dropped = int((~functional.keep_mask(candidates, rate, generator(3))).sum())
    assert abs(dropped - rate * total) < 5 * math.sqrt(total * rate * (1 - rate))


def test_draws_are_independent_of_their_neighbours():
    drawn = functional.random_drop(torch.Size([40_000]), 0.5, generator(), torch.device("cpu"))
    for lag in (1, 2, 3, 4, 5, 8):
        agree = int((drawn[lag:] == drawn[:-lag]).sum())
        assert abs(agree - (40_000 - lag) / 2) < 5 * math.sqrt(40_000 / 4)


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5, 0.9])
def test_rescale_makes_up_for_the_drop_on_the_survivors(rate):
    candidates = torch.rand(50, 40, generator=generator()) < 0.6
    plain = functional.keep_mask(candidates, rate, generator(7))
    scaled = functional.keep_mask(candidates, rate, generator(7), rescale=True)
    assert scaled.dtype == torch.float32
    assert_close(scaled, torch.where(candidates, plain / (1 - rate), plain.float()))


def test_rescale_at_rate_1_stays_finite():
    candidates = torch.tensor([True, False])
    keep = functional.keep_mask(candidates, 1.0, generator(), rescale=True)
    assert keep.tolist() == [0.0, 1.0]


def test_the_generator_decides_the_mask_and_nothing_else_does():
    candidates = torch.ones(64, 64, dtype=torch.bool)
    state = torch.get_rng_state()
    first = functional.keep_mask(candidates, 0.5, generator(5))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    assert_close(functional.keep_mask(candidates, 0.5, generator(5)), first)
    assert not torch.equal(functional.keep_mask(candidates, 0.5, generator(6)), first)


@pytest.mark.parametrize("keep_shape", [(4, 6), (1, 6), (4, 1)])
@pytest.mark.parametrize("rescale", [False, True])
def test_masked_equals_a_slow_loop_forward_and_backward(keep_shape, rescale):
    candidates = torch.rand(keep_shape, generator=generator(1)) < 0.7
    keep = functional.keep_mask(candidates, 0.5, generator(2), rescale=rescale)
    weight = torch.randn(4, 6, generator=generator(3), requires_grad=True)
    upstream = torch.randn(4, 6, generator=generator(4))
    result = functional.masked(weight, keep)
    result.backward(upstream)
    assert weight.grad is not None
    full = keep.expand(4, 6)
    for i in range(4):
        for j in range(6):
            factor = float(full[i, j])
            assert_close(result[i, j].item(), weight[i, j].item() * factor)
            assert_close(weight.grad[i, j].item(), upstream[i, j].item() * factor)
    assert (weight.grad[full == 0] == 0).all()


def test_masked_accumulates_over_several_uses_and_leaves_the_gradient_that_came_in():
    weight = torch.ones(3, requires_grad=True)
    keep = torch.tensor([True, False, True])
    upstream = torch.tensor([1.0, 2.0, 3.0])
    torch.autograd.backward([functional.masked(weight, keep)] * 2, [upstream] * 2)
    assert_close(weight.grad, torch.tensor([2.0, 0.0, 6.0]))
    assert upstream.tolist() == [1.0, 2.0, 3.0]


def test_masked_passes_numerical_checks_of_first_and_second_order():
    weight = torch.randn(3, 4, dtype=torch.float64, generator=generator(), requires_grad=True)
    keep = torch.rand(3, 4, generator=generator(1)) < 0.5
    assert torch.autograd.gradcheck(lambda w: functional.masked(w, keep) ** 2, (weight,))
    assert torch.autograd.gradgradcheck(lambda w: functional.masked(w, keep) ** 2, (weight,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("keep_dtype", [torch.bool, torch.float32])
def test_masked_keeps_the_dtype_of_the_weight(dtype, keep_dtype):
    weight = torch.ones(4, dtype=dtype, requires_grad=True)
    result = functional.masked(weight, torch.tensor([0, 1, 1, 0]).to(keep_dtype))
    result.sum().backward()
    assert weight.grad is not None
    assert result.dtype == weight.grad.dtype == dtype
    assert result.tolist() == weight.grad.tolist() == [0, 1, 1, 0]


@settings(max_examples=30)
@given(seeds, st.integers(1, 9), st.integers(1, 9), st.sampled_from([0, 1]))
def test_row_norms_equal_numpy(seed, units, fan_in, fan_in_dim):
    shape = (units, fan_in) if fan_in_dim == 1 else (fan_in, units)
    weight = torch.randn(shape, generator=generator(seed))
    expected = np.linalg.norm(weight.double().numpy(), axis=fan_in_dim)
    norms = functional.row_norms(weight, fan_in_dim)
    assert norms.shape == (units,)
    assert_close(norms.double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_row_norms_are_float32_or_wider(dtype, expected):
    norms = functional.row_norms(torch.full((2, 10_000), 10.0, dtype=dtype), 1)
    assert norms.dtype == expected
    assert norms.tolist() == [1000.0, 1000.0]


@settings(max_examples=30)
@given(seeds, st.integers(1, 6), st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_unit_norms_equal_the_norm_of_everything_that_produces_a_unit(seed, units, widths):
    draws = generator(seed)
    weights = [torch.randn(units, width, 4, generator=draws) for width in widths]
    norms = functional.unit_norms([w.norm(dim=2) for w in weights])
    everything = np.concatenate([w.flatten(1).numpy() for w in weights], axis=1)
    assert_close(norms, torch.from_numpy(np.linalg.norm(everything, axis=1)))
