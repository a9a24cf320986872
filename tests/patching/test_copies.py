"""A patched model can be copied, pickled and averaged at any time, within an update too."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.testing import assert_close

from hf_td import Schedule, anneal, patch_model, unpatch_model
from hf_td.ranking.activations import INTERVAL
from tests.experts.mixtures import mixture
from tests.families import family_inputs
from tests.patching.models import (
    HALF,
    MEASURED,
    WAYS,
    Model,
    a_model,
    assert_same_masks,
    averages,
    every_level,
    logits,
    masks,
    patch_of,
    patched,
    run,
    sums,
)
from tests.tiny import tiny_inputs, tiny_model


def pickled(model: Model) -> Model:
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
@pytest.mark.parametrize("importance", ["magnitude", "activation"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "albert"])
@every_level
def test_a_copy_made_within_an_update_continues_like_the_model(family, level, importance, copied):
    settings = {**HALF, "level": level, "importance": importance}
    model, alone = patched(family, **settings), patched(family, **settings)
    for one in (model, alone):
        anneal(one, 1.0, 0)
        run(one)
    other = copied(model)
    assert_same_masks(masks(other), masks(model))
    ends = []
    for one in (alone, other, model):  # the copy continues before the model does
        steps = [run(one, batches=2)]
        optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
        optimizer.step()
        for update in range(1, 3):
            anneal(one, 1.0, update)
            steps.append(run(one))
        ends.append((masks(one), steps, averages(one) if importance == "activation" else {}))
    assert_close(ends[1], ends[0], rtol=0, atol=0)
    assert_close(ends[2], ends[0], rtol=0, atol=0)
    unpatch_model(other)
    assert patch_of(model).dropped_share() > 0


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
@every_level
def test_a_copy_measures_independently(level, copied):
    model = patched("bert", **{**MEASURED, "level": level})
    anneal(model, 1.0, 0)
    run(model)
    other = copied(model)
    before = sums(model)
    assert_close(sums(other), before, rtol=0, atol=0)
    run(other)
    assert_close(sums(model), before, rtol=0, atol=0)
    rows = patch_of(model).sites[0].layer.input_rows
    assert patch_of(other).sites[0].layer.input_rows == 2 * rows
    patch_of(model).update_averages()
    run(model)  # no longer measured, unlike the copy
    assert_close(sums(model), before, rtol=0, atol=0)
    run(other)
    assert patch_of(other).sites[0].layer.input_rows == 3 * rows
    assert averages(model).keys() == {site.name for site in patch_of(model).sites}
    assert not averages(other)
    patch_of(other).update_averages()
    assert_close(averages(other), averages(model))


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("decay", [None, 0.9])
@every_level
def test_an_average_of_the_model_can_be_made_before_the_first_update(level, decay, use_buffers):
    model = patched("llama", **{**MEASURED, "level": level})
    multi = None if decay is None else get_ema_multi_avg_fn(decay)
    averaged = AveragedModel(model, multi_avg_fn=multi, use_buffers=use_buffers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    expected: dict[str, Tensor] = {}
    for update in range(3):
        anneal(model, 1.0, update)
        run(model)
        optimizer.step()
        averaged.update_parameters(model)
        for name, parameter in model.named_parameters():
            share = 1 / (update + 1) if decay is None or update == 0 else 1 - decay
            before = expected.get(name, torch.zeros_like(parameter))
            expected[name] = before + share * (parameter.detach() - before)
    assert_close(dict(averaged.module.named_parameters()), expected)
    stock = tiny_model("llama")
    stock.load_state_dict(averaged.module.state_dict())
    averaged.eval()
    assert torch.equal(averaged.module(**tiny_inputs(stock)).logits, logits(stock))
    unpatch_model(averaged)
    assert patch_of(model).dropped_share() > 0


def shapes_of_buffers(model: Model) -> dict[str, tuple[Any, ...]]:
    return {n: (b.shape, b.stride(), b.dtype, b.device) for n, b in model.named_buffers()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "way", [*WAYS, {"level": "unit", "importance": "activation", "experts_level": "unit"}], ids=str
)
@pytest.mark.parametrize("kind", ["gpt2", "albert", "mixtral"])
def test_the_buffers_of_a_patched_model_stay_the_same_set(kind, way, dtype):
    """What copies a model's buffers can be made at any time: averages, optimisers, wrappers."""
    mixed = kind == "mixtral"
    way = {**way} if mixed else {k: v for k, v in way.items() if k != "experts_level"}
    model = (mixture(kind) if mixed else a_model(kind)).to(dtype)
    model = patch_model(model, **{**HALF, **way, "targeting_schedule": Schedule(off=0.5)})
    averaged, before = AveragedModel(model), shapes_of_buffers(model)
    dense = set()
    for update in range(INTERVAL + 2):
        dense.add(anneal(model.train(), 1.0, update).targeting == 0)
        model(**(family_inputs(model) if mixed else tiny_inputs(model)))[0].sum().backward()
        assert shapes_of_buffers(model) == before
        averaged.update_parameters(model)
    assert dense == {True, False}
