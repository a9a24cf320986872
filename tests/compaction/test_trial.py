"""Models that cannot run with fewer heads, and those that read the number from their config."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

from hf_td import compact_model, prune_model, read_anatomy
from hf_td.compaction import can_compact, layout_of_model, needed_units
from hf_td.compaction.runs import runs_of
from hf_td.compaction.trial import fixed_heads
from hf_td.modules.compact_shapes import OwnConfig
from tests.compaction.models import parameters_of
from tests.families import TABLE, family_outputs, tiny_family


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.heads != "refused"])
def test_only_the_heads_of_some_families_are_fixed(name):
    model = tiny_family(name)
    before = parameters_of(model)
    anatomy = read_anatomy(model)
    blocks = anatomy.blocks
    fixed = fixed_heads(model, blocks, runs_of(model, anatomy))
    heads = {block for block in blocks if block.part == "attention"}
    assert set(fixed) == (heads if TABLE[name].heads == "masked" else set())
    assert all("does not run with fewer heads (" in reason for reason in fixed.values())
    assert all(parameter is before[key] for key, parameter in parameters_of(model).items())
    assert layout_of_model(model) is None


def test_dead_heads_that_are_fixed_are_not_counted():
    model = tiny_family("bloom")
    prune_model(model, 0.5, level="unit")
    needed = needed_units(model, read_anatomy(model))
    assert {block.part for block in needed} == {"feed_forward"}
    compact_model(model)
    attention: Any = model.get_submodule("transformer.h.0.self_attention")
    assert attention.num_heads == 4
    assert attention.dense.weight.shape == (32, 32)
    assert not can_compact(model)


def phi3() -> Any:
    model = tiny_family("phi3")
    prune_model(model, 0.5, level="unit")
    return model


def test_a_count_that_is_read_from_the_config_is_the_module_s_own():
    model = compact_model(phi3())
    attention = model.model.layers[0].self_attn
    assert (attention.config.num_attention_heads, model.config.num_attention_heads) == (2, 4)
    assert attention.config.hidden_size == 32
    layout = layout_of_model(model)
    assert layout is not None
    assert layout.attributes["model.layers.0.self_attn"] == {
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }


def test_all_other_settings_are_those_of_the_model():
    model = compact_model(phi3())
    expected = family_outputs(model)["output"]
    model.set_attn_implementation("eager")
    assert model.model.layers[0].self_attn.config._attn_implementation == "eager"
    torch.testing.assert_close(family_outputs(model)["output"], expected)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_have_configs_of_their_own(again):
    model = compact_model(phi3())
    other = again(model)
    config = other.model.layers[0].self_attn.config
    assert isinstance(config, OwnConfig)
    assert config.shared is other.config
    assert config.shared is not model.config
    torch.testing.assert_close(family_outputs(other), family_outputs(model))


def test_modules_that_know_their_counts_share_the_config():
    model: Any = tiny_family("llama")
    prune_model(model, 0.5, level="unit")
    compact_model(model)
    assert model.model.layers[0].self_attn.config is model.config


@pytest.mark.parametrize("family", ["t5", "t5_gated"])
@pytest.mark.parametrize("sparsity", [0.3, 0.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_blocks_that_need_equal_counts_of_heads_keep_them(family, sparsity, seed):
    model = tiny_family(family, seed)
    prune_model(model, sparsity, level="unit", budget="global")
    masked = family_outputs(model)
    torch.testing.assert_close(family_outputs(compact_model(model)), masked)
