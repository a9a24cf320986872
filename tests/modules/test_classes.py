"""Pickles and copies of generated classes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from transformers import FalconConfig, FalconForCausalLM, MixtralConfig, MixtralForCausalLM

from hf_td import anneal, patch_model, prune_model, unpatch_model
from hf_td.modules import classes
from hf_td.patching.layers import is_targeted
from tests.tiny import SIZES, VOCABULARY, tiny_inputs

EXPERTS: dict[str, Any] = {"experts_level": "unit", "importance": "magnitude"}


def falcon() -> Any:
    """Return a model whose projections are of its own class, `FalconLinear`."""
    config = FalconConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4
    )
    return FalconForCausalLM(config)


def mixtral() -> Any:
    config = MixtralConfig(
        vocab_size=VOCABULARY, **SIZES, num_key_value_heads=2, num_local_experts=4
    )
    return MixtralForCausalLM(config)


def through_a_pickle(model: Any, monkeypatch: Any) -> Any:
    """Return the model as another process loads it, one that has generated no class yet."""
    pickled = pickle.dumps(model)
    monkeypatch.setattr(classes, "_MADE", {})
    return pickle.loads(pickled)


@pytest.mark.parametrize("build", [falcon, mixtral])
def test_a_patched_model_is_pickled(build, monkeypatch):
    model = patch_model(build(), **(EXPERTS if build is mixtral else {}))
    anneal(model.train(), 1.0, 0)
    inputs = tiny_inputs(model)
    expected = model.eval()(**inputs).logits
    again = through_a_pickle(model, monkeypatch)
    assert torch.equal(again(**inputs).logits, expected)
    anneal(again.train(), 1.0, 1)
    again(**inputs).logits.sum().backward()
    stock = [type(module) for module in build().modules()]
    assert [type(module) for module in unpatch_model(again).modules()] == stock


def test_a_router_that_leaves_experts_out_is_pickled(monkeypatch):
    model = mixtral().eval()
    prune_model(model, 0.5, level="unit", **EXPERTS)
    inputs = tiny_inputs(model)
    again = through_a_pickle(model, monkeypatch)
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)


def test_a_copy_is_of_the_same_class():
    model = patch_model(falcon())
    twin = copy.deepcopy(model)
    assert [type(m) for m in twin.modules()] == [type(m) for m in model.modules()]
    assert any(is_targeted(module) for module in twin.modules())
