"""The Triton kernels: in the interpreter wherever Triton is, on CUDA wherever that is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_td import anneal, functional, kernels, patch_model
from hf_td.kernels import Order, Ranked, Ranking
from hf_td.patching.bundles import untie
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
def test_candidates_on_cuda_are_those_of_the_plain_function(dim, shape, dtype):
    draws = torch.Generator("cuda").manual_seed(0)
    weight = torch.randn(shape, device="cuda", generator=draws, dtype=dtype)
    one = Ranked(weight, dim, torch.rand(shape[dim], device="cuda", generator=draws))
    ((keep, _),) = Ranking([one]).draw(Order(0.91))
    candidates = functional.candidate_mask(one.scores().cpu(), 0.91, dim)
    assert torch.equal(keep.cpu(), ~candidates)


@pytest.mark.gpu
@pytest.mark.parametrize("drop_rate", [1.0, 0.5])
@pytest.mark.parametrize("dim", [0, 1])
def test_masked_weights_and_gradients_on_cuda_are_those_of_the_plain_function(dim, drop_rate):
    draws = torch.Generator("cuda").manual_seed(0)
    shapes = [(768, 768), (768, 768), (3072, 768), (65, 33)]
    weights = [torch.randn(shape, device="cuda", generator=draws) for shape in shapes]
    ranked = [Ranked(weight, dim, None, torch.bfloat16) for weight in weights]
    drawn = Ranking(ranked).draw(Order(0.9, drop_rate, range(len(ranked))))
    keeps = [keep for keep, _ in drawn]
    for weight, (keep, ready) in zip(weights, drawn, strict=True):
        assert ready is not None
        assert torch.equal(ready, (weight * keep).bfloat16())
        assert 0 < float((~keep).float().mean()) <= 0.9 * drop_rate + 0.02
    learning = [weight.requires_grad_() for weight in weights]
    nothing = [None] * len(weights)
    masked = kernels.masked_together(learning, keeps, nothing, torch.bfloat16, lambda: None)
    grads = [torch.randn_like(one) for one in masked]
    found = torch.autograd.grad(masked, learning, [grad.clone() for grad in grads])
    for weight, keep, own, grad, result in zip(weights, keeps, masked, grads, found, strict=True):
        assert torch.equal(own, (weight * keep).bfloat16())
        assert torch.equal(result, grad.float() * keep)


@pytest.mark.gpu
@pytest.mark.parametrize("dim", [0, 1])
def test_sums_of_squares_on_cuda_are_those_of_the_plain_function(dim):
    weights = [torch.randn(3072, 768, device="cuda") for _ in range(3)]
    expected = torch.stack([weight.double().square().sum(dim).float() for weight in weights])
    torch.testing.assert_close(kernels.sums_of_squares(weights, dim), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("level", ["weight", "unit"])
def test_updates_on_cuda_are_those_of_each_layer_by_itself(level):
    models: list[Any] = []
    for _ in range(2):
        stock: Any = tiny_model("bert")
        model = patch_model(stock.cuda(), level=level, targeting=0.5)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        models.append(model)
    for module in models[1].modules():
        untie(module)
    inputs = {name: tensor.cuda() for name, tensor in tiny_inputs(models[0]).items()}
    for update in range(4):  # from the second on, masked weights fall off where masks are drawn
        for model in models:
            anneal(model.train(), 1.0, update)
            with torch.autocast("cuda", torch.bfloat16):
                loss = model(**inputs)[0].square().mean()
            loss.backward()
        pairs = zip(models[0].parameters(), models[1].parameters(), strict=True)
        for one, other in pairs:
            assert (one.grad is None) == (other.grad is None)
            if one.grad is not None:
                # Sums on a GPU have no fixed order, and what they are of is in bfloat16.
                torch.testing.assert_close(one.grad, other.grad, rtol=2e-2, atol=1e-4)
        for model in models:
            torch.optim.SGD(model.parameters(), lr=0.1).step()
            model.zero_grad()
