"""The CPU kernels equal the plain functions bit for bit."""

from __future__ import annotations

import multiprocessing
import os
import threading
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hf_td import functional, kernels
from hf_td.functional import Cut, Rule
from hf_td.kernels import Ranked, cpu_masking, cpu_ranking

SHAPES = [(1, 7), (5, 1), (64, 96), (3, 2500), (3, 40, 31)]
KEY = functional.draw_key(7)


@pytest.fixture
def small_blocks(monkeypatch):
    """Cut the matrices of a test into many blocks with a remainder."""
    for kernels_of in (cpu_masking, cpu_ranking):
        monkeypatch.setattr(kernels_of, "_BLOCK", 1000)


@pytest.fixture
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def ranked(
    shape: tuple[int, ...], dim: int, dtype: Any = torch.float32, scaled: bool = True
) -> Ranked:
    draws = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=draws).to(dtype)
    scale = torch.rand(shape[dim], generator=draws) if scaled else None
    return Ranked(weight, Rule(dim), scale)


def plain_cut(one: Ranked, fraction: float, drop_rate: float = 1.0, key: int = KEY) -> Cut:
    """Return the cut of the plain functions."""
    scores = functional.weight_scores(one.weight, one.scale, one.rule)
    limits = functional.cutoffs(scores, fraction, one.rule.fan_in_dim)
    return cut_at(limits, drop_rate, key, one.scale)


def cut_at(limits: Tensor, drop_rate: float, key: int = KEY, scale: Tensor | None = None) -> Cut:
    numbers = functional.draw_of(key, functional.drop_threshold(drop_rate))
    return Cut(limits, torch.tensor(numbers), scale)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("threads", [1, 3], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.91, 1.0])
def test_cut_offs_equal_those_of_the_plain_function(fraction, scaled, dtype, threads):
    every = [
        ranked(shape, dim, dtype, scaled) for shape in SHAPES for dim in (len(shape) - 1, 0)[:2]
    ]
    every = [one for one in every if one.weight.dim() == 2 or one.rule.fan_in_dim > 0]
    for one, limits in zip(every, kernels.cutoffs(every, fraction), strict=True):
        expected = plain_cut(one, fraction).cutoff
        assert limits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert torch.equal(limits, expected.to(limits.dtype))


def gradients(function: Any, weight: Tensor, cut: Cut, rule: Rule) -> tuple[Tensor, Tensor]:
    weight = weight.clone().requires_grad_()
    result = function(weight, cut, rule)
    upstream = torch.randn(result.shape, generator=torch.Generator().manual_seed(2))
    result.backward(upstream.to(result.dtype))
    assert weight.grad is not None
    return result.detach(), weight.grad


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("threads", [1, 3], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("drop_rate", [1.0, 0.4, 1e-9, 0.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_masked_weights_and_gradients_equal_those_of_the_plain_function(
    shape, drop_rate, scaled, dtype, threads
):
    for dim in (1, len(shape) - 1, 0)[: 3 if len(shape) == 2 else 2]:
        one = ranked(shape, dim, dtype, scaled)
        cut = plain_cut(one, 0.7, drop_rate)
        found, plain = (
            gradients(function, one.weight, cut, one.rule)
            for function in (kernels.masked, functional.masked)
        )
        assert torch.equal(found[0], plain[0])
        assert torch.equal(found[1], plain[1])
        assert found[1].dtype == dtype


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("drop_rate", [1.0, 0.4])
@pytest.mark.parametrize(("shape", "dim"), [((90, 120), 1), ((90, 120), 0), ((3, 40, 30), 2)])
def test_infinite_cut_offs_of_inputs_drop_whole_inputs(shape, dim, drop_rate):
    draws = torch.Generator().manual_seed(3)
    weight = torch.randn(shape, generator=draws)
    sizes = [1 if n == len(shape) - 1 - (dim != 0) else size for n, size in enumerate(shape)]
    sizes = [*sizes[: -2 or None], *([1, shape[-1]] if dim else [shape[0], 1])]
    chosen = torch.rand(sizes, generator=draws) < 0.5
    limits = torch.where(chosen, torch.inf, -torch.inf)
    cut = cut_at(limits, drop_rate)
    found, plain = (
        gradients(function, weight, cut, Rule(dim))
        for function in (kernels.masked, functional.masked)
    )
    assert torch.equal(found[0], plain[0])
    assert torch.equal(found[1], plain[1])
    assert not found[0][~chosen.expand(shape)].eq(0).any()
    assert (found[0][chosen.expand(shape)] == 0).all() or drop_rate < 1


@pytest.mark.parametrize("rule", [Rule(1, (2, 4)), Rule(1, random_key=KEY)])
@pytest.mark.parametrize("drop_rate", [1.0, 0.4])
def test_patterns_and_random_scores_fall_back_to_the_plain_functions(rule, drop_rate):
    weight = torch.randn(9, 12, generator=torch.Generator().manual_seed(3))
    scores = functional.weight_scores(weight, None, rule)
    (limits,) = kernels.cutoffs([Ranked(weight, rule)], 0.5)
    assert torch.equal(limits, functional.cutoffs(scores, 0.5, 1))
    cut = cut_at(limits, drop_rate)
    found, plain = (
        gradients(function, weight, cut, rule) for function in (kernels.masked, functional.masked)
    )
    assert torch.equal(found[0], plain[0])
    assert torch.equal(found[1], plain[1])


def test_a_weight_that_is_a_view_is_ranked_and_masked():
    whole = torch.randn(40, 60, generator=torch.Generator().manual_seed(1))
    for weight in (whole[3:30, 10:50], whole.t(), whole[::2, ::3]):
        one = Ranked(weight, Rule(1))
        (limits,) = kernels.cutoffs([one], 0.5)
        assert torch.equal(limits, plain_cut(one, 0.5).cutoff)
        masked = kernels.masked(weight, cut_at(limits, 1.0), Rule(1))
        assert torch.equal(masked, functional.masked(weight, cut_at(limits, 1.0), Rule(1)))


@pytest.mark.parametrize("dim", [0, 1])
def test_weights_that_are_not_finite_are_masked_as_by_the_plain_functions(dim):
    one = ranked((16, 16), dim, scaled=False)
    draws = torch.Generator().manual_seed(1)
    for value in (torch.nan, -torch.nan, torch.inf, -torch.inf, -0.0):
        one.weight[torch.rand(16, 16, generator=draws) < 0.1] = value
        (limits,) = kernels.cutoffs([one], 0.5)
        cut = cut_at(limits, 1.0)
        dropped = functional.is_dropped(one.weight, cut, one.rule)
        assert (dropped.sum(dim) <= 8).all()
        masked = kernels.masked(one.weight, cut, one.rule)
        assert torch.equal(masked.nan_to_num(7), one.weight.masked_fill(dropped, 0).nan_to_num(7))


def test_a_cutoff_that_is_no_number_drops_nothing():
    weight = torch.randn(4, 8)
    limits = torch.tensor([[torch.nan], [-torch.nan], [torch.inf], [0.5]])
    masked = kernels.masked(weight, cut_at(limits, 1.0), Rule(1))
    assert torch.equal(masked, functional.masked(weight, cut_at(limits, 1.0), Rule(1)))
    assert torch.equal(masked[:2], weight[:2])
    assert not masked[2].any()


@given(seed=st.integers(0, 2**31), fraction=st.floats(0, 0.999), dim=st.sampled_from([0, 1]))
def test_the_lowest_of_each_unit_are_dropped_at_any_fraction(seed, fraction, dim):
    weight = torch.randn(9, 11, generator=torch.Generator().manual_seed(seed))
    (limits,) = kernels.cutoffs([Ranked(weight, Rule(dim))], fraction)
    masked = kernels.masked(weight, cut_at(limits, 1.0), Rule(dim))
    for magnitudes, left in zip(weight.abs().movedim(dim, 1), masked.movedim(dim, 1), strict=True):
        count = functional.candidate_count(len(magnitudes), fraction)
        lowest = sorted(range(len(magnitudes)), key=magnitudes.tolist().__getitem__)[:count]
        assert sorted(torch.nonzero(left == 0).flatten().tolist()) == sorted(lowest)


@given(tied=st.lists(st.integers(0, 4), min_size=1, max_size=30), fraction=st.floats(0, 1))
def test_candidates_for_pruning_equal_those_of_the_plain_function(tied, fraction):
    scores = torch.tensor([tied, tied[::-1]], dtype=torch.float32)
    for break_ties in (False, True):
        found = kernels.candidate_mask(scores, fraction, 1, break_ties=break_ties)
        plain = functional.candidate_mask(scores, fraction, 1, break_ties=break_ties)
        assert torch.equal(found, plain)


def half(weight: Tensor, dim: int = 1) -> Cut:
    return plain_cut(Ranked(weight.detach(), Rule(dim)), 0.5)


def test_a_gradient_with_other_readers_is_not_changed():
    weight, other = (torch.randn(9, 12, requires_grad=True) for _ in range(2))
    masked = kernels.masked(weight, half(weight), Rule(1))
    (masked + other).backward(torch.ones(9, 12))
    assert weight.grad is not None
    assert other.grad is not None
    assert torch.equal(weight.grad, (masked != 0).float())
    assert other.grad.all()


def linears(dim: int, *shape: int, dtype: Any = None) -> list[list[Any]]:
    """Return for the kernel and the plain functions: output, gradients of input, weight, bias."""
    torch.manual_seed(0)
    weight = torch.randn(*((10, 12) if dim else (12, 10)), requires_grad=True)
    bias = torch.randn(10, requires_grad=True)
    cut, rule = half(weight, dim), Rule(dim)

    def plain(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, *_: Any) -> torch.Tensor:
        return functional.linear(x, functional.masked(w, cut, rule), b, dim)

    found = []
    for function in (kernels.masked_linear, plain):
        torch.manual_seed(1)
        input = torch.randn(*shape, 12, requires_grad=True)
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            output = function(input, weight, bias, cut, rule)
        upstream = torch.randn_like(output)
        found.append([output, *torch.autograd.grad(output, (input, weight, bias), upstream)])
    return found


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (2, 3, 4)])
@pytest.mark.parametrize("dim", [0, 1])
def test_a_masked_linear_equals_the_plain_functions(dim, shape, dtype):
    kernel, plain = linears(dim, *shape, dtype=dtype)
    for one, other in zip(kernel, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert (kernel[2] == 0).any()


@pytest.mark.parametrize("frozen", ["input", "weight", "bias"])
def test_what_needs_no_gradient_gets_none(frozen):
    input, weight, bias = torch.randn(3, 12), torch.randn(10, 12), torch.randn(10)
    parts = {"input": input, "weight": weight, "bias": bias}
    for name, part in parts.items():
        part.requires_grad_(name != frozen)
    kernels.masked_linear(input, weight, bias, half(weight), Rule(1)).sum().backward()
    assert [name for name, part in parts.items() if part.grad is None] == [frozen]


@pytest.mark.parametrize("dim", [0, 1])
def test_a_masked_linear_has_a_second_derivative(dim):
    torch.manual_seed(0)
    weight = torch.randn(*((3, 4) if dim else (4, 3)), dtype=torch.float64, requires_grad=True)
    cut = cut_at(torch.full((1, 1), 0.5, dtype=torch.float64), 1.0)  # near no weight
    assert not torch.isclose(weight.abs(), cut.cutoff, atol=1e-2).any()
    others = (torch.randn(2, 4).double(), torch.randn(3).double())
    input, bias = (one.requires_grad_() for one in others)
    product = partial(kernels.masked_linear, cut=cut, rule=Rule(dim))
    assert torch.autograd.gradcheck(product, (input, weight, bias))
    assert torch.autograd.gradgradcheck(product, (input, weight, bias))


def test_a_masked_linear_saves_its_input_the_weight_itself_and_a_byte_for_each_entry():
    weight, input = torch.randn(50, 60, requires_grad=True), torch.randn(4, 60)
    output: Any = kernels.masked_linear(input, weight, None, half(weight), Rule(1))
    saved = [tensor for tensor in output.grad_fn.saved_tensors if tensor is not None]
    assert saved[0] is weight
    assert saved[1].nbytes == weight.numel()
    assert saved[-1] is input
    assert all(tensor.numel() <= 50 for tensor in saved[2:-1])


def test_the_backward_saves_a_byte_for_each_entry_of_the_weight():
    weight = torch.randn(50, 60, requires_grad=True)
    masked: Any = kernels.masked(weight, half(weight), Rule(1))
    saved = [tensor for tensor in masked.grad_fn.saved_tensors if tensor is not None]
    assert saved[0] is weight
    assert saved[1].nbytes == weight.numel()
    assert all(tensor.numel() <= 50 for tensor in saved[2:])


def test_the_backward_saves_one_byte_for_each_input_where_whole_inputs_are_dropped():
    weight = torch.randn(50, 60, requires_grad=True)
    limits = torch.full((1, 60), -torch.inf)
    masked: Any = kernels.masked(weight, cut_at(limits, 1.0), Rule(1))
    saved = [tensor for tensor in masked.grad_fn.saved_tensors if tensor is not None]
    assert [tensor.numel() for tensor in saved] == [3000, 60, 60, 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(6, 8), (1, 8), (6, 1)])
def test_cleared_entries_are_zero_and_the_rest_keeps_its_bits(shape, dtype):
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
def test_empty_tensors_and_biases_can_be_cleared(shape):
    tensor = torch.ones(shape)
    kernels.clear(tensor, torch.ones(shape, dtype=torch.bool))
    assert torch.equal(tensor, torch.zeros(shape))


def test_gradients_of_dropped_weights_are_zero_even_if_not_finite():
    weight = torch.tensor([[1.0, 1.0, 2.0, 2.0]], requires_grad=True)
    masked = kernels.masked(weight, cut_at(torch.tensor([[1.5]]), 1.0), Rule(1))
    masked.backward(torch.tensor([[float("nan"), float("inf"), -1.0, 2.0]]))
    assert weight.grad is not None
    assert weight.grad.tolist() == [[0, 0, -1, 2]]


@pytest.mark.parametrize("drop_rate", [1.0, 0.0])
def test_autocast_sets_the_type_of_the_result_and_the_weight_that_of_its_gradient(drop_rate):
    weight = torch.randn(9, 12, generator=torch.Generator().manual_seed(3))
    cut = half(weight)._replace(draw=cut_at(weight, drop_rate).draw)
    kept = ~functional.is_dropped(weight, cut, Rule(1))
    with torch.autocast("cpu", torch.bfloat16):
        result, gradient = gradients(kernels.masked, weight, cut, Rule(1))
    assert torch.equal(result, (weight * kept).bfloat16())
    assert gradient.dtype == torch.float32
    assert not gradient[~kept].any()
    assert gradient[kept].all()


def test_masked_weights_have_a_second_derivative():
    weight = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    at = half(weight)
    cut = at._replace(cutoff=at.cutoff * 0.99)  # far enough from any weight to differentiate
    assert torch.autograd.gradgradcheck(lambda w: kernels.masked(w, cut, Rule(1)) ** 2, (weight,))


def ranked_pair(rows: int) -> tuple[Tensor, Tensor]:
    one = Ranked(torch.randn(rows, 100), Rule(1))
    return kernels.cutoffs([one], 0.5)[0], plain_cut(one, 0.5).cutoff


@pytest.mark.usefixtures("small_blocks", "threads")
@pytest.mark.parametrize("threads", [64], indirect=True)
def test_work_of_any_size_uses_the_same_few_threads():
    for rows in range(80, 800, 40):
        assert torch.equal(*ranked_pair(rows))
    own = [one for one in threading.enumerate() if one.name.startswith("hf_td")]
    assert 0 < len(own) <= (os.cpu_count() or 1)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
@pytest.mark.usefixtures("small_blocks", "threads")
@pytest.mark.parametrize("threads", [3], indirect=True)
def test_a_forked_process_starts_new_threads():
    assert torch.equal(*ranked_pair(200))

    def rank_again() -> None:
        assert torch.equal(*ranked_pair(200))

    fork = multiprocessing.get_context("fork")
    child = fork.Process(target=rank_again, daemon=True)
    child.start()
    child.join(60)
    assert child.exitcode == 0
