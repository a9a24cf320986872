"""The Triton kernels in Triton's interpreter, on the CPU.

Run by test_cuda.py in a process of its own: the interpreter is chosen before Triton is imported.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hf_td import functional
from hf_td.kernels import Order, Ranked, cuda, reductions

SHAPES = [(5, 7), (9, 33), (3, 130)]
KEYS = [-(1 << 60), -(1 << 60) + 7919]
_LOW = 0xFFFFFFFF


def ranked(shape: tuple[int, int], dim: int, dtype: Any, scaled: bool, seed: int = 0) -> Ranked:
    draws = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=draws).to(dtype)
    scale = torch.rand(shape[dim], generator=draws) if scaled else None
    return Ranked(weight, dim, scale)


def candidates(one: Ranked, fraction: float) -> Tensor:
    return functional.candidate_mask(one.scores(), fraction, one.dim)


def philox(key: int, counter: int) -> list[int]:
    """The words of Philox 4x32 with ten rounds (Salmon et al., 2011), one number at a time."""
    low, high = key & _LOW, key >> 32 & _LOW
    words = [counter & _LOW, 0, 0, 0]
    for _ in range(10):
        first, second = 0xD2511F53 * words[0], 0xCD9E8D57 * words[2]
        words = [
            second >> 32 ^ words[1] ^ low,
            second & _LOW,
            first >> 32 ^ words[3] ^ high,
            first & _LOW,
        ]
        low, high = low + 0x9E3779B9 & _LOW, high + 0xBB67AE85 & _LOW
    return words


FLOAT, HALF = torch.float32, torch.bfloat16
# What CUDA makes of what is no number.
ALL_ONES = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)


@pytest.mark.parametrize(
    ("fraction", "dim", "scaled", "dtype"),
    [
        (0.5, 0, True, FLOAT),
        (0.91, 1, True, FLOAT),
        (0.91, 0, False, FLOAT),
        (0.5, 1, False, torch.float16),
        (0.91, 1, True, HALF),
        (0.5, 0, False, HALF),
        (0.0, 1, True, FLOAT),
    ],
)
def test_candidates_are_exactly_those_of_the_plain_function(fraction, dim, scaled, dtype):
    every = [ranked(shape, dim, dtype, scaled, seed) for shape in SHAPES for seed in (0, 1)]
    for one, (keep, _) in zip(every, cuda.prepare(every)(Order(fraction)), strict=True):
        assert keep.dtype == torch.bool
        assert torch.equal(keep, ~candidates(one, fraction))


@pytest.mark.parametrize("compute", [FLOAT, HALF])
@pytest.mark.parametrize("drop_rate", [1.0, 0.5])
@pytest.mark.parametrize("dim", [0, 1])
def test_masked_weights_fall_off_on_the_way(dim, drop_rate, compute):
    every = [
        Ranked(one.weight.to(HALF).float(), dim, one.scale, compute)
        for one in (ranked((6, 20), dim, FLOAT, True, seed) for seed in (0, 1))
    ]
    plain = [Ranked(one.weight, dim, one.scale) for one in every]
    order = Order(0.5, drop_rate, KEYS)
    drawn, expected = cuda.prepare(every)(order), cuda.prepare(plain)(order)
    for one, (keep, masked), (own, _) in zip(every, drawn, expected, strict=True):
        assert torch.equal(keep, own)
        assert masked is not None
        assert torch.equal(masked, (one.weight * keep).to(compute))


def test_ties_at_the_cut_off_are_kept_as_in_the_plain_function():
    weight = torch.tensor([[1.0, -1.0, 2.0, 2.0, 2.0, 0.0], [3.0] * 6])
    ((keep, _),) = cuda.prepare([Ranked(weight, 1, None)])(Order(0.5))
    assert keep.tolist() == [[False, False, True, True, True, False], [True] * 6]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of infinities
@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.95, 0.99])
@pytest.mark.parametrize(("dim", "dtype"), [(0, FLOAT), (1, FLOAT), (1, HALF), (1, torch.float16)])
def test_any_distribution_is_cut_off_exactly(fraction, dim, dtype):
    draws = torch.Generator().manual_seed(3)
    smooth = torch.randn(12, 200, generator=draws)
    rows = [
        *smooth[:4],
        smooth[4] * smooth[5].mul(3).exp(),  # over many magnitudes
        torch.where(smooth[6] > 2, 1e30, smooth[6]),  # far outliers
        smooth[7].sign(),  # ties alone
        smooth[8].round(),
        torch.zeros(200),
        torch.full((200,), 1e-42),  # below the normal numbers
        torch.arange(200.0).flip(0),
        torch.where(smooth[9] > 1, torch.inf, smooth[9]),
        torch.where(smooth[10] > 2, torch.nan, smooth[10]),
        torch.where(smooth[11] > 2, ALL_ONES, smooth[11]),
    ]
    weight = torch.stack(rows).to(dtype)
    one = Ranked(weight if dim else weight.t().contiguous(), dim, None)
    ((keep, _),) = cuda.prepare([one])(Order(fraction))
    # Numbers that are none are above all others, as infinity is in the plain function.
    plain = Ranked(one.weight.nan_to_num(torch.inf, torch.inf), dim, None)
    assert torch.equal(keep, ~candidates(plain, fraction))


@pytest.mark.parametrize("dtype", [FLOAT, HALF])
@pytest.mark.parametrize("dim", [0, 1])
def test_cut_offs_are_exact_wherever_they_were_before(dim, dtype):
    every = [ranked((3, 40) if dim else (40, 3), dim, dtype, False, seed) for seed in (0, 1)]
    draw = cuda.prepare(every)
    # As in training; with targeting that jumps; of weights that are others.
    for change, fraction in ((1.0, 0.9), (1.001, 0.9), (1.0, 0.3), (50.0, 0.3)):
        for one in every:
            one.weight.mul_(change)
        every[0].weight[0] = 0
        for one, (keep, _) in zip(every, draw(Order(fraction)), strict=True):
            assert torch.equal(keep, ~candidates(one, fraction))


def test_a_view_of_a_larger_weight_is_ranked_where_it_lies():
    whole = torch.randn(12, 40, generator=torch.Generator().manual_seed(1))
    one = Ranked(whole[2:9, 5:25], 1, None)
    ((keep, _),) = cuda.prepare([one])(Order(0.5))
    assert torch.equal(keep, ~candidates(one, 0.5))


@pytest.mark.parametrize("fan_in", [20, 5, 33])
@pytest.mark.parametrize("dim", [0, 1])
def test_draws_are_philox_keyed_by_the_weight_and_counted_by_the_position(dim, fan_in):
    shape = (6, fan_in) if dim else (fan_in, 6)
    every = [ranked(shape, dim, torch.float32, True, seed) for seed in (0, 1)]
    found = cuda.prepare(every)(Order(0.75, 0.4, KEYS))
    for one, key, (keep, masked) in zip(every, KEYS, found, strict=True):
        assert masked is None
        below = torch.tensor(drawn_bits(key, 6, fan_in)) < functional.drop_threshold(0.4)
        drawn = below if dim else below.t()
        assert torch.equal(keep, ~(candidates(one, 0.75) & drawn))


def drawn_bits(key: int, units: int, fan_in: int) -> list[list[int]]:
    """16 bits for each entry of a weight: eight neighbours share the four words of a number."""
    numbers = max(1, 2 ** (fan_in - 1).bit_length() // 8)
    rows = [
        [half for n in range(numbers) for half in halves(philox(key, unit * numbers + n))]
        for unit in range(units)
    ]
    return [row[:fan_in] for row in rows]


def halves(words: list[int]) -> list[int]:
    """The lower and the upper 16 bits of each word."""
    return [half for word in words for half in (word & 0xFFFF, word >> 16)]


def test_the_expected_share_of_candidates_is_dropped():
    one = ranked((40, 256), 1, torch.float32, False)
    ((keep, _),) = cuda.prepare([one])(Order(0.5, 0.3, KEYS[:1]))
    assert float((~keep).float().mean()) == pytest.approx(0.15, abs=0.015)


@pytest.mark.parametrize("out_type", [FLOAT, HALF])
@pytest.mark.parametrize("in_type", [FLOAT, HALF])
def test_products_are_those_of_the_plain_function(in_type, out_type):
    draws = torch.Generator().manual_seed(1)
    rows = []
    shapes = [((5, 8), (5, 8)), ((70, 64), (1, 64)), ((9, 7), (9, 1)), ((3, 4), (1, 1))]
    for shape, keep_shape in shapes:
        # Of numbers that every type has: the interpreter rounds them otherwise than a device.
        tensor = torch.randn(shape, generator=draws).to(HALF).to(in_type)
        keep = torch.rand(keep_shape, generator=draws) < 0.5
        rows.append((tensor, keep, torch.empty(shape, dtype=out_type)))
    cuda.products(rows)
    for tensor, keep, out in rows:
        assert torch.equal(out, (tensor * keep).to(out_type))


def test_a_product_may_be_written_where_its_tensor_lies():
    tensor = torch.tensor([[float("nan"), 1.0], [2.0, float("inf")]])
    cuda.products([(tensor, torch.tensor([[False, True], [True, False]]), tensor)])
    assert tensor.tolist() == [[0, 1], [2, 0]]


@pytest.mark.parametrize("dtype", [FLOAT, HALF])
@pytest.mark.parametrize("shape", [(5, 700), (70, 33)])
@pytest.mark.parametrize("dim", [0, 1])
def test_sums_of_squares_are_those_of_the_plain_function(dim, shape, dtype):
    draws = torch.Generator().manual_seed(1)
    weights = [torch.randn(shape, generator=draws).to(dtype) for _ in range(3)]
    expected = torch.stack([reductions.sum_of_squares(weight, dim) for weight in weights])
    torch.testing.assert_close(cuda.sums_of_squares(weights, dim), expected)
