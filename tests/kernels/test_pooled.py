"""Cut-offs of whole matrices and of the whole model equal those of plain sorts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from hf_td import functional, kernels
from hf_td.functional import Rule
from hf_td.kernels import Ranked, cpu_ranking, pooled
from tests.kernels.test_cpu import ranked

SHAPES = [(64, 96), (4, 32), (96, 64)]
RULES = [Rule(1), Rule(0), Rule(1, pattern=(2, 4)), Rule(1, random_key=3)]
every_type = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])


def scores_of(one: Ranked) -> Tensor:
    return functional.weight_scores(one.weight, one.scale, one.rule)


def candidates(one: Ranked, limits: Tensor) -> Tensor:
    row = one.weight.narrow(one.rule.fan_in_dim, 0, 1)
    assert limits.shape == row.shape
    is_random = one.rule.random_key is not None
    wide = torch.float32 if is_random else torch.promote_types(row.dtype, torch.float32)
    assert limits.dtype == wide
    return scores_of(one) < limits


def weights_of(dtype: Any, rule: Rule) -> list[Ranked]:
    """Return matrices of different magnitudes."""
    made = [ranked(shape, rule.fan_in_dim, dtype) for shape in SHAPES]
    return [
        one._replace(rule=rule, weight=one.weight * 10.0**place) for place, one in enumerate(made)
    ]


@every_type
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.5])
def test_the_lowest_of_a_matrix_are_candidates_wherever_they_are(fraction, rule, dtype):
    every = weights_of(dtype, rule)
    for one, limits in zip(every, kernels.cutoffs(every, fraction, "matrix"), strict=True):
        found = candidates(one, limits)
        (limit,) = limits.unique().tolist()
        flat = scores_of(one).flatten()
        expected = flat.sort().values[int(fraction * len(flat))]
        assert found.sum() == ((flat < expected).sum() if fraction else 0)
        assert limit == (float(expected) if fraction else -torch.inf)


def test_each_expert_has_a_cut_off_of_its_own():
    one = ranked((3, 40, 31), 2)
    one = one._replace(weight=one.weight * torch.tensor([1.0, 10.0, 0.1]).view(3, 1, 1))
    (limits,) = kernels.cutoffs([one], 0.5, "matrix")
    assert candidates(one, limits).flatten(1).sum(1).tolist() == [620] * 3


@every_type
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("cap", [1.0, 0.6])
def test_the_lowest_of_all_weights_are_candidates_up_to_the_cap(cap, rule, dtype):
    every = weights_of(dtype, rule)
    limits = kernels.cutoffs(every, 0.45, "model", cap)
    found = [candidates(one, limit) for one, limit in zip(every, limits, strict=True)]
    total = sum(one.weight.numel() for one in every)
    assert_close(sum(int(mask.sum()) for mask in found) / total, 0.45, atol=0.02, rtol=0)
    for mask in found:
        assert mask.float().mean() <= cap
    if rule.random_key is None and dtype == torch.float32:
        flat = [scores_of(one).flatten() for one in every]
        means = [
            scores_of(one._replace(rule=Rule(rule.fan_in_dim))).square().mean().sqrt()
            for one in every
        ]
        pairs = zip(flat, means, strict=True)
        pooled_scores = torch.cat([scores / mean for scores, mean in pairs])
        if cap == 1:
            limit = pooled_scores.sort().values[int(0.45 * total)]
            expected = torch.cat([mask.flatten() for mask in found])
            assert ((pooled_scores < limit) != expected).sum() <= 1  # rounding at the cut-off


def test_a_weight_at_its_cap_leaves_the_rest_to_the_others():
    draws = torch.Generator().manual_seed(0)
    spiked = torch.full((50, 50), 0.01)
    spiked[0, 0] = 100.0  # nearly all of this matrix is far below its root mean square
    plain = torch.randn((50, 50), generator=draws)
    every = [Ranked(spiked + torch.rand((50, 50), generator=draws) / 1e3, Rule(1))]
    every.append(Ranked(plain, Rule(1)))
    limits = kernels.cutoffs(every, 0.6, "model", 0.9)
    shares = [
        float(candidates(one, limit).float().mean())
        for one, limit in zip(every, limits, strict=True)
    ]
    assert_close(shares, [0.9, 0.3], atol=1e-3, rtol=0)
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            kernels.cutoffs(every, 0.95, "model", 0.9),
            kernels.cutoffs(every, 0.9, "matrix"),
            strict=True,
        )
    )


@given(
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=30),
    st.integers(0, 29),
)
def test_the_bits_of_a_cut_off_are_those_of_the_sorted_scores(values, place):
    scores = torch.tensor([values, [-value for value in values]])
    count = min(place, len(values) - 1)
    found = pooled.by_bits(scores, count, 1)
    assert torch.equal(found, functional.kth_lowest(scores, count, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_bits_of_every_narrow_type_and_dimension(dtype):
    scores = torch.randn((30, 40), generator=torch.Generator().manual_seed(0)).to(dtype)
    for dim in (0, 1):
        found = pooled.by_bits(scores, 7, dim)
        assert torch.equal(found, functional.kth_lowest(scores, 7, dim))


@pytest.mark.parametrize("over", ["matrix", "model"])
def test_sharded_weights_are_refused_by_name(over, monkeypatch):
    monkeypatch.setattr("hf_td.kernels.ranking.is_sharded", lambda weight: True)
    with pytest.raises(ValueError, match=f"rank_over='{over}' ranks rows of a weight together"):
        kernels.cutoffs([ranked((4, 8), 1)], 0.5, over)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [[1], [7, 3], [5000, 70_000, 1]])
def test_a_score_is_selected_among_many_arrays(sizes, dtype):
    draws = torch.Generator().manual_seed(0)
    arrays = [torch.rand(size, generator=draws, dtype=dtype) for size in sizes]
    ordered = torch.cat(arrays).sort().values
    for count in {0, sum(sizes) // 2, sum(sizes) * 9 // 10, sum(sizes) - 1}:
        assert cpu_ranking.select(arrays, count) == float(ordered[count])


def test_a_sample_that_misleads_and_scores_that_are_equal_or_nan_change_nothing():
    scores = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    scores[:: cpu_ranking._SAMPLED] = 5.0
    scores[1:9000:2] = 0.5
    scores[-3:] = torch.nan
    ordered = scores.sort().values  # nan last, as the bits have it
    for count in (0, 3000, 7000, 19_996):
        assert cpu_ranking.select([scores], count) == float(ordered[count])
    assert math.isnan(cpu_ranking.select([scores], 19_999))
