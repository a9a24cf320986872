"""torch.compile takes a patched model whole, and annealing never makes it compile again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from hf_td import Schedule, anneal, patch_model
from hf_td.patching.patch import find_patch
from hf_td.ranking.activations import INTERVAL, find_activations
from tests.tiny import tiny_inputs, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore")  # of the compiler, about itself

UPDATES = INTERVAL + 2  # two of them are measured


def without_dropout(model: Any) -> Any:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def sites_of(model: Any) -> Any:
    patch = find_patch(model)
    assert patch is not None
    return patch.sites


def losses(model: Any, forward: Any, inputs: Any) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found, targetings = [], []
    for update in range(UPDATES):
        targetings.append(anneal(model.train(), update / UPDATES, update).targeting)
        loss = forward(**inputs)[0].square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(float(loss.detach()))
    assert targetings[1:].count(0) > 1, "dense updates"
    assert sum(map(bool, targetings)) > 3
    anneal(model, 1.0, UPDATES)  # the last update's activations count too
    return found


@pytest.mark.parametrize("importance", ["magnitude", "activation"])
@pytest.mark.parametrize(
    ("family", "level"),
    [("bert", "weight"), ("bert", "unit"), ("gpt2", "weight"), ("bert", "layers")],
)
def test_annealing_compiles_once_and_learns_the_same(family, level, importance):
    torch._dynamo.reset()
    settings: dict[str, Any] = {
        "level": level,
        "importance": importance,
        "targeting": 0.75,
        # Some updates sample their targeting, some are dense.
        "targeting_schedule": Schedule(shape="linear", sampled=0.3, off=0.4),
        "drop_rate": 0.5,
        "drop_rate_schedule": "cosine",
    }
    if level == "layers":
        settings |= {"level": "unit", "layers_level": "unit"}
    inputs = tiny_inputs(tiny_model(family), 4, 16)
    eager = patch_model(without_dropout(tiny_model(family)), **settings)
    expected = losses(eager, eager, inputs)

    model = patch_model(without_dropout(tiny_model(family)), **settings)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)  # a graph break is an error
    got = losses(model, compiled, inputs)

    assert counter.frame_count == 1
    assert got == pytest.approx(expected, rel=1e-5)
    assert len(set(got)) == UPDATES
    if importance == "activation":
        measured = [find_activations(one) for one in (model, eager)]
        squares = [one.mean_squares for one in measured if one is not None]
        assert len(squares) == 2
        assert len(squares[0]) == len(sites_of(model))
        torch.testing.assert_close(*squares, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("level", ["weight", "unit"])
def test_where_nobody_anneals_compiled_forwards_count_themselves(level):
    torch._dynamo.reset()
    models = [patch_model(without_dropout(tiny_model("bert")), level=level) for _ in range(2)]
    inputs = tiny_inputs(models[0], 4, 16)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(models[1], backend=counter)
    frames = []
    for update in range(1, UPDATES + 1):
        expected, got = (forward(**inputs)[0] for forward in (models[0].train(), compiled.train()))
        torch.testing.assert_close(got, expected)
        patch = find_patch(models[1])
        assert patch is not None
        assert patch.updates == update
        frames.append(counter.frame_count)
    assert len(set(frames[1:])) == 1, "compiled anew"
