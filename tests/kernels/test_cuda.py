"""The Triton kernels equal the plain functions, in the interpreter and on CUDA."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_td import anneal, functional, kernels, patch_model
from hf_td.functional import Cut, Rule
from hf_td.kernels import Ranked
from tests.tiny import tiny_inputs, tiny_model

ROOT = Path(__file__).parents[2]


def test_the_kernels_equal_the_plain_functions_in_the_interpreter():
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "interpreted.py"],
        cwd=Path(__file__).parent,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": _path()},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _path() -> str:
    return os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(768, 768), (3072, 768), (768, 3072), (8192, 2048)])
@pytest.mark.parametrize("dim", [0, 1])
def test_candidates_on_cuda_equal_those_of_the_plain_function(dim, shape, dtype):
    draws = torch.Generator("cuda").manual_seed(0)
    weight = torch.randn(shape, device="cuda", generator=draws, dtype=dtype)
    one = Ranked(weight, Rule(dim), torch.rand(shape[dim], device="cuda", generator=draws))
    (limits,) = kernels.cutoffs([one], 0.91)
    scores = functional.weight_scores(*one[:1], one.scale, one.rule).cpu()
    assert torch.equal(scores < limits.cpu(), functional.candidate_mask(scores, 0.91, dim))


@pytest.mark.gpu
@pytest.mark.parametrize("drop_rate", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("dim", [0, 1])
def test_masked_weights_and_gradients_on_cuda_equal_those_of_the_plain_function(dim, drop_rate):
    draws = torch.Generator("cuda").manual_seed(0)
    numbers = functional.draw_of(functional.draw_key(3), functional.drop_threshold(drop_rate))
    draw = torch.tensor(numbers, device="cuda")
    for shape in [(768, 768), (3072, 768), (65, 33), (4, 96, 64)]:
        weight = torch.randn(shape, device="cuda", generator=draws).requires_grad_()
        rule = Rule(dim + len(shape) - 2)
        (limits,) = kernels.cutoffs([Ranked(weight, rule)], 0.9)
        cut = Cut(limits, draw)
        dropped = functional.is_dropped(weight, cut, rule)
        assert torch.equal(dropped.cpu(), functional.is_dropped(weight.cpu(), on_cpu(cut), rule))
        with torch.autocast("cuda", torch.bfloat16):
            masked = kernels.masked(weight, cut, rule)
        upstream = torch.randn_like(masked)
        (gradient,) = torch.autograd.grad(masked, weight, upstream)
        assert torch.equal(masked, weight.masked_fill(dropped, 0).bfloat16())
        assert torch.equal(gradient, upstream.float().masked_fill(dropped, 0))


def on_cpu(cut: Cut) -> Cut:
    return Cut(cut.cutoff.cpu(), cut.draw.cpu())


@pytest.mark.gpu
@pytest.mark.parametrize("dim", [0, 1])
def test_sums_of_squares_on_cuda_equal_those_of_the_plain_function(dim):
    weights = [torch.randn(3072, 768, device="cuda") for _ in range(3)]
    expected = torch.stack([weight.double().square().sum(dim).float() for weight in weights])
    torch.testing.assert_close(kernels.sums_of_squares(weights, dim), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("level", ["weight", "unit"])
@pytest.mark.parametrize("drop_rate", [1.0, 0.5])
def test_gradients_of_updates_on_cuda_equal_those_on_the_cpu(level, drop_rate):
    models: list[Any] = []
    for device in ("cpu", "cuda"):
        stock: Any = tiny_model("bert")
        settings: Any = {"level": level, "targeting": 0.5, "drop_rate": drop_rate}
        models.append(patch_model(stock.to(device), **settings, importance="magnitude"))
        for module in models[-1].modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    for update in range(3):
        for model in models:
            anneal(model.train(), 1.0, update)
            inputs = {n: t.to(model.device) for n, t in tiny_inputs(model).items()}
            model(**inputs)[0].square().mean().backward()
        for one, other in zip(*(model.parameters() for model in models), strict=True):
            assert (one.grad is None) == (other.grad is None)
            if one.grad is not None:
                torch.testing.assert_close(one.grad, other.grad.cpu(), rtol=1e-3, atol=1e-5)
        for model in models:
            model.zero_grad()
