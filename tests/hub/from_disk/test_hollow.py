"""Hollow models are read as real ones are, and have no storage."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hf_td import read_anatomy
from hf_td.anatomy.reading import _READINGS
from hf_td.hub.from_disk.hollow import filled, hollow_model
from hf_td.hub.from_disk.shards import Shards, ShardWriter
from tests.tiny import FAMILIES, tiny_model


def shown(anatomy: Any) -> list[Any]:
    return [
        (
            block.name,
            block.part,
            block.units,
            block.obstacle,
            [(p.module, p.role, p.features.tolist()) for p in block.projections],
            [(c.parameter, c.dim, c.features.tolist()) for c in block.companions],
        )
        for block in anatomy.blocks
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_hollow_model_is_read_as_the_real_one(family):
    model: Any = tiny_model(family)
    _READINGS.clear()
    expected = shown(read_anatomy(model))
    model.config.architectures = [type(model).__name__]
    _READINGS.clear()
    empty = hollow_model(model.config, torch.float32)
    assert shown(read_anatomy(empty)) == expected
    assert expected
    _READINGS.clear()


def test_a_hollow_model_has_no_storage_and_keeps_ties():
    model: Any = tiny_model("llama")
    model.config.architectures, model.config.tie_word_embeddings = ["LlamaForCausalLM"], True
    empty: Any = hollow_model(model.config, torch.bfloat16)
    stored = {
        p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in empty.parameters()
    }
    assert sum(stored.values()) < sum(p.nbytes for p in empty.parameters()) / 10
    assert {p.dtype for p in empty.parameters()} == {torch.bfloat16}
    assert empty.lm_head.weight is empty.model.embed_tokens.weight


def test_values_are_there_only_meanwhile():
    model: Any = tiny_model("llama")
    model.config.architectures = ["LlamaForCausalLM"]
    empty: Any = hollow_model(model.config, torch.float32)
    name = "model.layers.0.mlp.down_proj.weight"
    before = empty.get_parameter(name)
    with filled(empty, {name: model.get_parameter(name).detach()}):
        assert torch.equal(empty.get_parameter(name), model.get_parameter(name))
    assert empty.get_parameter(name) is before


def test_shards_are_written_and_read_in_turn(tmp_path):
    tensors = {f"t{i}": torch.full((4, i + 1), float(i)) for i in range(6)}
    writer = ShardWriter(tmp_path, shard_bytes=100)
    for name, tensor in tensors.items():
        writer.add(name, tensor)
    writer.finish()
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert files == [f"model-{i + 1:05d}-of-00002.safetensors" for i in range(2)]
    shards = Shards(tmp_path)
    assert shards.shapes == writer.shapes
    assert shards.dtype == torch.float32
    assert writer.parameters == sum(t.numel() for t in tensors.values())
    for name, tensor in shards.read(tensors).items():
        assert torch.equal(tensor, tensors[name])
    shards.read(["t1"])["t1"].zero_()  # a copy
    assert torch.equal(shards.read(["t1"])["t1"], tensors["t1"])
