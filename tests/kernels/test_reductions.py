"""Reductions equal torch's own operations, for every type and layout."""

from __future__ import annotations

import pytest
import torch

from hf_td.kernels import reductions

TYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def weight_of(dtype: torch.dtype, shape: tuple[int, ...] = (40, 30)) -> torch.Tensor:
    draws = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=draws).to(dtype)
    weight[3] = 0.0
    weight[5] = -0.0
    weight[..., 7] = 0.0
    weight[..., ::2, 7] = -0.0
    weight[0, 0] = torch.inf
    return weight


@pytest.fixture(params=[1 << 18, 60])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reductions, "_PIECE", request.param)


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize("dtype", TYPES)
def test_zeros_of_either_sign_are_zeros(dtype):
    weight = weight_of(dtype)
    for tensor in (weight, weight.t(), weight[2:30, 4:25], torch.nn.Parameter(weight)):
        assert reductions.count_nonzero(tensor) == int(tensor.count_nonzero())
        for dim in (0, 1):
            found = reductions.any_nonzero(tensor, dim)
            assert torch.equal(found, (tensor != 0).any(dim))
    assert not reductions.any_nonzero(weight, 1)[[3, 5]].any()


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("dim", [0, 1])
def test_sums_of_squares_equal_those_of_torch(dim, dtype):
    weight = weight_of(dtype)
    weight[0, 0] = 1
    before = weight.clone()
    wide = weight if dtype == torch.float64 else weight.float()
    torch.testing.assert_close(reductions.sum_of_squares(weight, dim), wide.square().sum(dim))
    assert torch.equal(weight, before)


@pytest.mark.parametrize("dtype", [*TYPES, torch.float8_e4m3fn, torch.int64, torch.bool])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_select_equals_index_select(dim, dtype):
    weight = torch.randn(6, 8).mul(3).to(dtype)
    index = torch.tensor([5, 0, 2])
    found = reductions.select(weight, dim, index)
    expected = weight.view(torch.int8) if dtype == torch.float8_e4m3fn else weight
    expected = expected.index_select(dim, index)
    assert found.dtype == dtype
    assert found.is_contiguous()
    assert torch.equal(found.view(expected.dtype), expected)


def test_stacks_booleans_and_integers_are_reduced():
    experts = weight_of(torch.bfloat16, (4 + 4, 6, 8))
    assert torch.equal(reductions.any_nonzero(experts, 1), (experts != 0).any(1))
    assert reductions.count_nonzero(experts) == int(experts.count_nonzero())
    mask = torch.tensor([[True, False], [False, True]])
    assert reductions.count_nonzero(mask) == 2
    assert reductions.count_nonzero(torch.tensor([0, 3, -1])) == 2
