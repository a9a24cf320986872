"""Reading leaves a model unchanged, is independent of its state, and is kept."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch.testing import assert_close

from hf_td import patch_model, read_anatomy
from hf_td.anatomy import reading
from tests.anatomy.known import KNOWN, assert_reads, every_family
from tests.tiny import TEXT, checkpoint_activations, tiny_model

# --- the model is left as it was ---


def numpy_state() -> list[int]:
    state: Any = np.random.get_state()
    return state[1].tolist()


@every_family
def test_reading_leaves_the_model_and_all_random_states_alone(family):
    model = tiny_model(family)
    modules = list(model.modules())
    for module in modules[::2]:
        module.training = True
    parameters = list(model.parameters())
    for parameter in parameters[::3]:
        parameter.requires_grad_(False)
    parameters[1].grad = torch.ones_like(parameters[1])
    modes = [m.training for m in modules]
    frozen = [p.requires_grad for p in parameters]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random_states = torch.get_rng_state(), random.getstate(), numpy_state()
    anatomy = read_anatomy(model)
    assert torch.equal(torch.get_rng_state(), random_states[0])
    assert random.getstate() == random_states[1]
    assert numpy_state() == random_states[2]
    assert [m.training for m in modules] == modes
    assert [p.requires_grad for p in parameters] == frozen
    assert list(model.modules()) == modules
    assert not any("forward" in m.__dict__ for m in modules)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)
    assert_close(parameters[1].grad, torch.ones_like(parameters[1]))
    assert all(p.grad is None for i, p in enumerate(parameters) if i != 1)
    assert model.state_dict().keys() == state.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert_reads(anatomy, KNOWN[family])


def test_a_forward_replaced_on_the_instance_is_put_back():
    model: Any = tiny_model("bert")
    layer = model.bert.encoder.layer[0].output.dense
    replaced = layer.forward
    layer.forward = replaced
    read_anatomy(model)
    assert layer.__dict__["forward"] is replaced


def test_the_model_is_left_as_it_was_when_its_forward_fails():
    model = tiny_model("bert").train()
    with pytest.raises(ValueError, match="You must specify exactly one of input_ids"):
        read_anatomy(model, {"nonsense": 1})
    assert all(m.training for m in model.modules())
    assert not any("forward" in m.__dict__ for m in model.modules())


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5_gated", "vit"])
@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.requires_grad_(False),
        lambda model: model.to(torch.bfloat16),
        lambda model: model.to(torch.float16),
        lambda model: model.train(),
        lambda model: checkpoint_activations(model.train()),
    ],
    ids=["frozen", "bfloat16", "float16", "training", "checkpointing"],
)
def test_every_state_of_a_model_is_read_alike(family, change):
    model = tiny_model(family)
    change(model)
    assert_reads(read_anatomy(model), KNOWN[family])


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_model_is_read_where_gradients_are_off(context):
    model = tiny_model("bert")
    with context():
        assert_reads(read_anatomy(model), KNOWN["bert"])


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("level", ["weight", "unit"])
def test_a_patched_model_is_read_alike(family, level):
    model = patch_model(tiny_model(family), level=level)
    assert_reads(read_anatomy(model), KNOWN[family])


# --- readings are kept ---


def test_a_second_reading_of_the_same_architecture_is_the_first():
    first = read_anatomy(tiny_model("bert"))
    assert read_anatomy(tiny_model("bert", seed=1)) is first
    assert read_anatomy(tiny_model("roberta")) is not first


def test_other_shapes_are_read_anew():
    configs = [hf.BertConfig(**{**TEXT, "num_attention_heads": heads}) for heads in (4, 2)]
    units = [read_anatomy(hf.BertModel(config)).blocks[0].units for config in configs]
    assert units == [4, 2]


def test_other_heads_of_a_decoder_are_read_anew():
    units = []
    for heads in (4, 2):
        config = hf.BartConfig(
            vocab_size=64,
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            encoder_attention_heads=4,
            decoder_attention_heads=heads,
            max_position_embeddings=32,
        )
        anatomy = read_anatomy(hf.BartForConditionalGeneration(config))
        units.append([b.units for b in anatomy.blocks if b.part == "attention"])
    assert units == [[4, 4, 4], [4, 2, 2]]


def test_what_other_inputs_showed_is_another_reading(monkeypatch):
    """Some inputs leave a part of a model out; a reading of these must not be kept for others."""
    read: list[Any] = []
    monkeypatch.setattr(reading, "_read", lambda _, inputs: read.append(inputs))
    model, given = tiny_model("bert"), {"input_ids": torch.ones(1, 4, dtype=torch.long)}
    for inputs in (None, given, None, given, {**given, "token_type_ids": given["input_ids"]}):
        read_anatomy(model, inputs)
    assert [inputs and len(inputs) for inputs in read] == [None, 1, 2]
