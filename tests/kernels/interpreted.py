"""The Triton kernels in Triton's interpreter, on the CPU.

test_cuda.py runs this file in a separate process: the interpreter is chosen before Triton is
imported.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hf_td import functional
from hf_td.functional import Cut, Rule
from hf_td.kernels import Ranked, cuda, reductions

SHAPES = [(5, 7), (9, 33), (3, 130)]
KEY = functional.draw_key(7)
FLOAT, HALF = torch.float32, torch.bfloat16
# The NaN that CUDA computes.
ALL_ONES = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)


def ranked(shape: tuple[int, int], dim: int, dtype: Any, scaled: bool, seed: int = 0) -> Ranked:
    draws = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=draws).to(dtype)
    scale = torch.rand(shape[dim], generator=draws) if scaled else None
    return Ranked(weight, Rule(dim), scale)


def scores(one: Ranked) -> Tensor:
    return functional.weight_scores(one.weight, one.scale, one.rule)


def candidates(one: Ranked, fraction: float) -> Tensor:
    return functional.candidate_mask(scores(one), fraction, one.rule.fan_in_dim)


@pytest.mark.parametrize(
    ("fraction", "dim", "scaled", "dtype"),
    [
        (0.5, 0, True, FLOAT),
        (0.91, 1, True, FLOAT),
        (0.91, 0, False, FLOAT),
        (0.5, 1, False, torch.float16),
        (0.91, 1, True, HALF),
        (0.5, 0, False, HALF),
    ],
)
def test_candidates_equal_those_of_the_plain_function(fraction, dim, scaled, dtype):
    every = [ranked(shape, dim, dtype, scaled, seed) for shape in SHAPES for seed in (0, 1)]
    for one, limits in zip(every, cuda.cutoffs(every, fraction), strict=True):
        assert limits.dtype == torch.float32
        assert limits.shape[dim] == 1
        assert torch.equal(scores(one) < limits, candidates(one, fraction))


def test_ties_at_the_cut_off_are_not_candidates():
    weight = torch.tensor([[1.0, -1.0, 2.0, 2.0, 2.0, 0.0], [3.0] * 6])
    (limits,) = cuda.cutoffs([Ranked(weight, Rule(1))], 0.5)
    below = weight.abs() < limits
    assert below.tolist() == [[True, True, False, False, False, True], [False] * 6]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # from infinities
@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.95, 0.99])
@pytest.mark.parametrize(("dim", "dtype"), [(0, FLOAT), (1, FLOAT), (1, HALF), (1, torch.float16)])
def test_cut_offs_are_exact_for_any_distribution(fraction, dim, dtype):
    draws = torch.Generator().manual_seed(3)
    smooth = torch.randn(12, 200, generator=draws)
    rows = [
        *smooth[:4],
        smooth[4] * smooth[5].mul(3).exp(),  # over many magnitudes
        torch.where(smooth[6] > 2, 1e30, smooth[6]),  # far outliers
        smooth[7].sign(),  # only ties
        smooth[8].round(),
        torch.zeros(200),
        torch.full((200,), 1e-42),  # subnormal
        torch.arange(200.0).flip(0),
        torch.where(smooth[9] > 1, torch.inf, smooth[9]),
        torch.where(smooth[10] > 2, torch.nan, smooth[10]),
        torch.where(smooth[11] > 2, ALL_ONES, smooth[11]),
    ]
    weight = torch.stack(rows).to(dtype)
    one = Ranked(weight if dim else weight.t().contiguous(), Rule(dim))
    (limits,) = cuda.cutoffs([one], fraction)
    # NaN is above every number, as infinity is in the plain function.
    plain = one._replace(weight=one.weight.nan_to_num(torch.inf, torch.inf))
    assert torch.equal(scores(one) < limits, candidates(plain, fraction))


@pytest.mark.parametrize("dtype", [FLOAT, HALF])
@pytest.mark.parametrize("dim", [0, 1])
def test_cut_offs_are_exact_for_any_previous_cut_offs(dim, dtype):
    every = [ranked((3, 40) if dim else (40, 3), dim, dtype, False, seed) for seed in (0, 1)]
    before = [torch.full((3,), value) for value in (-torch.inf, torch.inf)]
    # First, a step of training, a jump of the targeting, then other weights.
    for change, fraction in ((1.0, 0.9), (1.001, 0.9), (1.0, 0.3), (50.0, 0.3)):
        for one in every:
            one.weight.mul_(change)
        every[0].weight[0] = 0
        known = [one._replace(before=limits) for one, limits in zip(every, before, strict=True)]
        before = cuda.cutoffs(known, fraction)
        for one, limits in zip(every, before, strict=True):
            assert torch.equal(scores(one) < limits, candidates(one, fraction))


def test_a_view_of_a_larger_weight_is_ranked_in_place():
    whole = torch.randn(12, 40, generator=torch.Generator().manual_seed(1))
    one = Ranked(whole[2:9, 5:25], Rule(1))
    (limits,) = cuda.cutoffs([one], 0.5)
    assert torch.equal(scores(one) < limits, candidates(one, 0.5))


def cut_at(limits: Tensor, drop_rate: float, scale: Tensor | None = None) -> Cut:
    numbers = functional.draw_of(KEY, functional.drop_threshold(drop_rate))
    return Cut(limits, torch.tensor(numbers), scale)


@pytest.mark.parametrize("out_type", [FLOAT, HALF])
@pytest.mark.parametrize("drop_rate", [1.0, 0.4, 0.0])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize(
    ("shape", "dim"), [((5, 7), 1), ((70, 64), 1), ((9, 33), 0), ((3, 5, 7), 2), ((3, 5, 7), 1)]
)
def test_masks_equal_those_of_the_plain_function(shape, dim, scaled, drop_rate, out_type):
    draws = torch.Generator().manual_seed(1)
    # Only numbers that every type has: the interpreter and a device round differently.
    weight = torch.randn(shape, generator=draws).to(HALF).float()
    source = torch.randn(shape, generator=draws).to(HALF)
    scale = torch.rand(shape[dim], generator=draws) if scaled else None
    plain = functional.weight_scores(weight, scale, Rule(dim))
    by_input = torch.where(plain.amin(0 if len(shape) == 2 else dim, True) < 0.1, torch.inf, 0.0)
    for limits in (functional.cutoffs(plain, 0.6, dim), by_input):
        cut = cut_at(limits, drop_rate, scale)
        out = torch.empty(shape, dtype=out_type)
        cuda.write_masked(source, weight, cut, Rule(dim), out)
        dropped = functional.is_dropped(weight, cut, Rule(dim))
        assert torch.equal(out, source.masked_fill(dropped, 0).to(out_type))


def test_a_gradient_can_be_masked_in_place():
    weight = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    gradient = torch.tensor([[float("nan"), 1.0], [2.0, float("inf")]])
    cut = cut_at(torch.tensor([[1.5], [1.5]]), 1.0)
    cuda.write_masked(gradient, weight, cut, Rule(1), gradient)
    assert gradient.tolist() == [[0, 1], [2, 0]]


@pytest.mark.parametrize("dtype", [FLOAT, HALF])
@pytest.mark.parametrize("shape", [(5, 700), (70, 33)])
@pytest.mark.parametrize("dim", [0, 1])
def test_sums_of_squares_equal_those_of_the_plain_function(dim, shape, dtype):
    draws = torch.Generator().manual_seed(1)
    weights = [torch.randn(shape, generator=draws).to(dtype) for _ in range(3)]
    expected = torch.stack([reductions.sum_of_squares(weight, dim) for weight in weights])
    torch.testing.assert_close(cuda.sums_of_squares(weights, dim), expected)
