"""Readings of known families."""

from __future__ import annotations

from typing import Any

import pytest
import transformers as hf

from hf_td import read_anatomy
from tests.anatomy.known import FUSED, KNOWN, assert_reads, every_family
from tests.tiny import TEXT, tiny_inputs, tiny_model


@every_family
def test_each_family_is_read_as_it_is_known(family):
    assert_reads(read_anatomy(tiny_model(family)), KNOWN[family])


@pytest.mark.parametrize(("make", "known"), FUSED.values(), ids=FUSED)
def test_fused_and_interleaved_layouts_are_slices(make, known):
    assert_reads(read_anatomy(make()), known)


@every_family
def test_what_lies_outside_of_the_blocks_is_reported_and_all_is_called(family):
    anatomy = read_anatomy(tiny_model(family))
    claimed = {name for block in anatomy.blocks for name in block.modules}
    assert not claimed & set(anatomy.unclaimed)
    assert not anatomy.uncalled
    heads = ("classifier", "pooler", "lm_head")
    assert all(any(part in name for part in heads) for name in anatomy.unclaimed)


@every_family
def test_blocks_come_in_the_order_in_which_the_model_runs_them(family):
    model, ran = tiny_model(family), []
    anatomy = read_anatomy(model)
    for block in anatomy.blocks:
        name = block.consumer.module
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    model(**tiny_inputs(model))
    assert [block.consumer.module for block in anatomy.blocks] == ran


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("bert", "bert.encoder.layer.0.attention"),
        ("gpt2", "transformer.h.0.attn"),
        ("llama", "model.layers.0.self_attn"),
        ("t5", "encoder.block.0.layer.0.SelfAttention"),
    ],
)
def test_a_block_is_named_by_the_path_of_its_projections(family, name):
    block = read_anatomy(tiny_model(family)).blocks[0]
    assert block.name == name
    assert block.layer == 0


def test_a_base_model_and_one_with_a_head_are_read_alike():
    model: Any = tiny_model("bert")
    base = read_anatomy(model.bert)
    whole = read_anatomy(model)
    assert [f"bert.{b.name}" for b in base.blocks] == [b.name for b in whole.blocks]
    modules = [n for b in base.blocks for n in b.modules]
    assert [f"bert.{n}" for n in modules] == [n for b in whole.blocks for n in b.modules]


def test_multi_query_attention_is_still_found():
    config = hf.LlamaConfig(**TEXT, num_key_value_heads=1)
    anatomy = read_anatomy(hf.LlamaForCausalLM(config))
    claimed = {name for block in anatomy.blocks for name in block.modules}
    assert "model.layers.0.self_attn.q_proj" in claimed
