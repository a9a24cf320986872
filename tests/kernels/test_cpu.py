"""The fast functions of the CPU, bit for bit against the plain ones."""

from __future__ import annotations

import multiprocessing
import os
import threading
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hf_td import functional, kernels
from hf_td.kernels import Order, Ranked, Ranking, cpu

SHAPES = [(1, 7), (5, 1), (64, 96), (3, 2500)]
KEY = -(1 << 60) + 7


@pytest.fixture
def small_blocks(monkeypatch):
    """So that matrices of a test are many blocks, of rows that do not divide evenly."""
    monkeypatch.setattr(cpu, "_BLOCK", 1000)


@pytest.fixture
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def ranked(shape: tuple[int, int], dim: int, dtype: Any = torch.float32, scaled: bool = True):
    draws = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=draws).to(dtype)
    scale = torch.rand(shape[dim], generator=draws) if scaled else None
    return Ranked(weight, dim, scale)


def expected(one: Ranked, fraction: float, drop_rate: float, key: int = KEY) -> Tensor:
    scores = one.weight.abs()
    if one.scale is not None:
        scores = scores * (one.scale if one.dim == 1 else one.scale[:, None])
    candidates = functional.candidate_mask(scores, fraction, one.dim)
    generator = torch.Generator().manual_seed(key)
    return functional.keep_mask(candidates, drop_rate, generator)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("threads", [1, 3], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("drop_rate", [1.0, 0.4, 1 - 1e-9, 1e-9])
@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.91])
def test_masks_are_those_of_the_plain_functions(fraction, drop_rate, scaled, dtype, threads):
    every = [ranked(shape, dim, dtype, scaled) for shape in SHAPES for dim in (0, 1)]
    keys = range(KEY, KEY + len(every))
    found = Ranking(every).draw(Order(fraction, drop_rate, keys))
    for one, key, (keep, _) in zip(every, keys, found, strict=True):
        assert keep.dtype == torch.bool
        assert torch.equal(keep, expected(one, fraction, drop_rate, key))
        assert torch.equal(keep, one.keep_mask(fraction, drop_rate, key))


def test_a_weight_that_is_a_view_is_ranked_where_it_lies():
    whole = torch.randn(40, 60, generator=torch.Generator().manual_seed(1))
    one = Ranked(whole[3:30, 10:50], 1, None)
    ((keep, _),) = Ranking([one]).draw(Order(0.5))
    assert torch.equal(keep, expected(one, 0.5, 1.0))
    assert (~keep).sum(1).tolist() == [20] * 27


def test_experts_are_ranked_too():
    weight = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
    ((keep, _),) = Ranking([Ranked(weight, 2, None)]).draw(Order(0.5))
    assert (~keep).sum(2).tolist() == [[4] * 5] * 2


@pytest.mark.parametrize("dim", [0, 1])
def test_what_is_not_finite_is_ranked_as_by_the_plain_functions(dim):
    one = ranked((16, 16), dim)
    draws = torch.Generator().manual_seed(1)
    for value in (torch.nan, -torch.nan, torch.inf, -torch.inf, -0.0):
        one.weight[torch.rand(16, 16, generator=draws) < 0.1] = value
        ((keep, _),) = Ranking([one]).draw(Order(0.5))
        assert torch.equal(keep, one.keep_mask(0.5, 1.0))


@given(seed=st.integers(0, 2**31), fraction=st.floats(0, 0.999), dim=st.sampled_from([0, 1]))
def test_the_lowest_of_each_unit_are_dropped_whatever_the_fraction(seed, fraction, dim):
    weight = torch.randn(9, 11, generator=torch.Generator().manual_seed(seed))
    ((keep, _),) = Ranking([Ranked(weight, dim, None)]).draw(Order(fraction))
    rows = zip(weight.abs().movedim(dim, 1), keep.movedim(dim, 1), strict=True)
    for magnitudes, kept in rows:
        count = functional.candidate_count(len(magnitudes), fraction)
        lowest = sorted(range(len(magnitudes)), key=magnitudes.tolist().__getitem__)[:count]
        assert sorted(torch.nonzero(~kept).flatten().tolist()) == sorted(lowest)


def gradients(function: Any, weight: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    weight = weight.clone().requires_grad_()
    result = function(weight, keep)
    upstream = torch.randn(result.shape, generator=torch.Generator().manual_seed(2))
    result.backward(upstream.to(result.dtype))
    assert weight.grad is not None
    return result.detach(), weight.grad


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("threads", [1, 3], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("keep_shape", [(90, 120), (1, 120), (90, 1)])
@pytest.mark.parametrize("scale", [None, 2.0])
def test_products_and_gradients_are_those_of_the_plain_function(keep_shape, dtype, scale, threads):
    draws = torch.Generator().manual_seed(3)
    weight = torch.randn(90, 120, generator=draws).to(dtype)
    keep = torch.rand(keep_shape, generator=draws) < 0.5
    mask = keep if scale is None else keep * scale
    found, plain = (gradients(f, weight, mask) for f in (kernels.masked, functional.masked))
    assert torch.equal(found[0], plain[0])
    assert torch.equal(found[1], plain[1])
    assert found[1].dtype == dtype


def test_a_gradient_that_others_read_is_left_alone():
    weight, other = (torch.randn(9, 12, requires_grad=True) for _ in range(2))
    keep = torch.rand(9, 12) < 0.5
    (kernels.masked(weight, keep) + other).backward(torch.ones(9, 12))
    assert weight.grad is not None
    assert other.grad is not None
    assert torch.equal(weight.grad, keep.float())
    assert other.grad.all()


@pytest.mark.usefixtures("small_blocks")
def test_products_of_views_and_of_experts():
    draws = torch.Generator().manual_seed(3)
    whole = torch.randn(5, 40, 60, generator=draws)
    for weight in (whole, whole[1:4, :, 10:50], whole[0].t(), whole[0, 3:7, ::2]):
        keep = torch.rand(weight.shape, generator=draws) < 0.5
        for dtype in (torch.float32, torch.bfloat16):
            out = torch.empty_like(weight, dtype=dtype)
            assert torch.equal(cpu.multiply(weight, keep, out), (weight * keep).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(6, 8), (1, 8), (6, 1)])
def test_what_is_cleared_is_zero_and_the_rest_keeps_its_bits(shape, dtype):
    draws = torch.Generator().manual_seed(3)
    tensor = torch.randn(6, 8, generator=draws).to(dtype)
    tensor[0, 0] = float("nan")
    chosen = torch.rand(shape, generator=draws) < 0.5
    everywhere = chosen.expand(6, 8)
    before = tensor.view(torch.uint8).reshape(6, 8, -1).clone()
    kernels.clear(tensor, chosen)
    after = tensor.view(torch.uint8).reshape(6, 8, -1)
    assert not after[everywhere].any()
    assert torch.equal(after[~everywhere], before[~everywhere])


@pytest.mark.parametrize("shape", [(0, 8), (6, 0), (6,)])
def test_what_is_empty_or_a_bias_can_be_cleared_too(shape):
    tensor = torch.ones(shape)
    kernels.clear(tensor, torch.ones(shape, dtype=torch.bool))
    assert torch.equal(tensor, torch.zeros(shape))


def test_what_is_dropped_is_zero_even_where_a_weight_is_not_finite():
    weight = torch.tensor([[float("nan"), float("inf"), -1.0, 2.0]])
    keep = torch.tensor([[False, False, False, True]])
    assert kernels.masked(weight, keep).tolist() == [[0, 0, 0, 2]]


def test_under_autocast_the_product_is_in_its_type_and_the_gradient_in_the_weights():
    draws = torch.Generator().manual_seed(3)
    weight = torch.randn(9, 12, generator=draws)
    keep = torch.rand(9, 12, generator=draws) < 0.5
    with torch.autocast("cpu", torch.bfloat16):
        result, gradient = gradients(kernels.masked, weight, keep)
    assert torch.equal(result, (weight * keep).bfloat16())
    assert gradient.dtype == torch.float32
    assert not gradient[~keep].any()
    assert gradient[keep].all()


def test_products_have_a_second_derivative():
    weight = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    keep = torch.rand(3, 4) < 0.5
    assert torch.autograd.gradgradcheck(lambda w: kernels.masked(w, keep) ** 2, (weight,))


@pytest.mark.usefixtures("small_blocks", "threads")
@pytest.mark.parametrize("threads", [64], indirect=True)
def test_work_of_any_size_is_done_by_the_same_few_threads():
    for rows in range(80, 800, 40):
        weight, keep = torch.randn(rows, 100), torch.rand(rows, 100) < 0.5
        assert torch.equal(cpu.multiply(weight, keep, torch.empty_like(weight)), weight * keep)
    own = [one for one in threading.enumerate() if one.name.startswith("hf_td")]
    assert 0 < len(own) <= (os.cpu_count() or 1)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
@pytest.mark.usefixtures("small_blocks", "threads")
@pytest.mark.parametrize("threads", [3], indirect=True)
def test_a_forked_process_has_threads_of_its_own():
    weight, keep = torch.randn(200, 100), torch.rand(200, 100) < 0.5
    expected = cpu.multiply(weight, keep, torch.empty_like(weight))

    def multiply_again() -> None:
        assert torch.equal(cpu.multiply(weight, keep, torch.empty_like(weight)), expected)

    fork = multiprocessing.get_context("fork")
    child = fork.Process(target=multiply_again, daemon=True)
    child.start()
    child.join(60)
    assert child.exitcode == 0
