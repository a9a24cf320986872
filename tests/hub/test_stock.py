"""A stock config expresses uniform widths in its fields."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf

from hf_td import prune_model, read_anatomy
from hf_td.anatomy import Holder, Part
from hf_td.compaction import needed_units
from hf_td.hub.stock_config import build_empty, express, unexpressed, units_of
from tests.compaction.models import every_family, small_model
from tests.families import tiny_family
from tests.tiny import tiny_model

# Family to the config field of its feed-forward width.
WIDTHS = {
    "bert": "intermediate_size",
    "roberta": "intermediate_size",
    "distilbert": "hidden_dim",
    "gpt2": "n_inner",
    "llama": "intermediate_size",
    "t5": "d_ff",
    "t5_gated": "d_ff",
    "vit": "intermediate_size",
}


def expressed(model: Any, neurons: int | None = None, heads: int | None = None) -> Any:
    """Return the config for numbers of units in every layer, and the units by part of the model."""
    blocks = read_anatomy(model).blocks
    units: dict[Part, int | None] = {"attention": heads, "feed_forward": neurons}
    wanted: dict[Holder, int] = {block: units[block.part] or block.units for block in blocks}
    config, found = express(model, blocks, wanted)
    return config, {part: {n for b, n in found.items() if b.part == part} for part in units}


@every_family
def test_nothing_wanted_changes_nothing(family):
    model = tiny_model(family)
    config, units = expressed(model)
    assert units_of(build_empty(model, config), read_anatomy(model).blocks) == {
        block: block.units for block in read_anatomy(model).blocks
    }
    assert units["feed_forward"] == {128 if family == "gpt2" else 64}


@every_family
def test_a_uniform_width_goes_into_the_field_of_the_family(family):
    model = tiny_model(family)
    before = model.config.to_dict()
    config, units = expressed(model, neurons=24)
    assert getattr(config, WIDTHS[family]) == 24
    assert units["feed_forward"] == {24}
    assert model.config.to_dict() == before


@every_family
def test_everything_else_of_the_config_stays(family):
    model = tiny_model(family)
    model.config.id2label = {0: "no", 1: "yes"}
    config, _ = expressed(model, neurons=24)
    before, after = model.config.to_dict(), config.to_dict()
    assert {k: v for k, v in after.items() if k != WIDTHS[family]} == {
        k: v for k, v in before.items() if k != WIDTHS[family]
    }


@pytest.mark.parametrize(("family", "heads"), [("vit", 3), ("t5", 3), ("t5_gated", 1)])
def test_heads_are_expressed_where_their_size_is_a_field(family, heads):
    config, units = expressed(tiny_model(family), heads=heads)
    assert units["attention"] == {heads}
    assert config.num_heads == heads if family != "vit" else config.num_attention_heads == heads


def test_groups_of_queries_are_expressed_together():
    config, units = expressed(tiny_model("llama"), heads=1)
    assert units["attention"] == {1}
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (2, 1, 8)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "gpt2"])
def test_heads_are_not_expressed_where_their_size_follows_their_number(family):
    _, units = expressed(tiny_model(family), heads=2)
    assert units["attention"] == {4}


def test_what_no_number_of_heads_fits_is_rounded_up():
    text: Any = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
    }
    config = hf.LlamaConfig(**text, num_attention_heads=8, num_key_value_heads=8)
    torch.manual_seed(0)
    found, units = expressed(hf.LlamaForCausalLM(config), heads=3)
    assert units["attention"] == {4}  # 32 is no multiple of 3
    assert found.num_attention_heads == 4


IMAGE: Any = {"image_size": 16, "patch_size": 4}


def test_a_ratio_is_expressed_too():
    config = hf.SwinConfig(**IMAGE, embed_dim=32, depths=[2], num_heads=[4], window_size=2)
    torch.manual_seed(0)
    model = hf.SwinModel(config)
    for neurons in (1, 24, 37, 127):
        found, units = expressed(model, neurons=neurons)
        assert units["feed_forward"] == {neurons}
        assert isinstance(found.mlp_ratio, float)


def test_a_ratio_that_is_a_whole_number_is_rounded_up():
    size: Any = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    model = hf.Dinov2Model(hf.Dinov2Config(**IMAGE, **size))
    for neurons, width in ((1, 32), (32, 32), (33, 64), (127, 128)):
        found, units = expressed(model, neurons=neurons)
        assert units["feed_forward"] == {width}
        assert found.mlp_ratio == width // 32


def test_each_tower_has_fields_of_its_own():
    model = tiny_family("clip")
    blocks = read_anatomy(model).blocks
    widths = {"text_model": 24, "vision_model": 40}
    wanted: dict[Holder, int] = {
        b: widths[b.name.split(".")[0]] if b.part == "feed_forward" else b.units for b in blocks
    }
    config, units = express(model, blocks, wanted)
    assert units == wanted
    assert config.text_config.intermediate_size == 24
    assert config.vision_config.intermediate_size == 40
    assert model.config.text_config.intermediate_size == 64


def test_heads_of_a_tower_are_expressed_where_their_size_is_a_field():
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    text = hf.Qwen2Config(**sizes, **heads, vocab_size=64)
    vision = hf.CLIPVisionConfig(**sizes, num_attention_heads=4, image_size=8, patch_size=4)
    model = hf.LlavaForConditionalGeneration(
        hf.LlavaConfig(text_config=text, vision_config=vision, image_token_index=63)
    )
    blocks = read_anatomy(model).blocks
    language = {b for b in blocks if b.part == "attention" and "language_model" in b.name}
    wanted: dict[Holder, int] = {b: 1 if b in language else b.units for b in blocks}
    config, units = express(model, blocks, wanted)
    assert len(language) == 2
    assert units == wanted
    found = config.text_config
    assert (found.num_attention_heads, found.num_key_value_heads, found.head_dim) == (2, 1, 8)
    assert config.vision_config.num_attention_heads == 4


def test_a_ratio_holds_for_stages_of_several_widths():
    model = tiny_family("swin")
    blocks = read_anatomy(model).blocks
    full = {b.units for b in blocks if b.part == "feed_forward"}
    wanted: dict[Holder, int] = {
        b: b.units // 2 if b.part == "feed_forward" else b.units for b in blocks
    }
    config, units = express(model, blocks, wanted)
    assert len(full) > 1
    assert units == wanted
    assert config.mlp_ratio == pytest.approx(model.config.mlp_ratio / 2, abs=1e-3)


def test_encoder_and_decoder_have_their_own_widths():
    config = hf.BartConfig(
        vocab_size=64,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=64,
        decoder_ffn_dim=48,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        max_position_embeddings=32,
    )
    torch.manual_seed(0)
    model = hf.BartModel(config).eval()
    blocks = read_anatomy(model).blocks
    wanted: dict[Holder, int] = {
        b: 16 if b.name.startswith("encoder") else 40 for b in blocks if b.units > 4
    }
    found, units = express(model, blocks, wanted)
    assert (found.encoder_ffn_dim, found.decoder_ffn_dim) == (16, 40)
    assert all(units[block] == count for block, count in wanted.items())


@every_family
def test_uneven_widths_are_as_wide_as_the_widest(family):
    model = tiny_model(family)
    prune_model(model, 0.75, level="unit", layers=[0])
    prune_model(model, 0.5, level="unit", layers=[1])
    anatomy = read_anatomy(model)
    needed = needed_units(model, anatomy)
    _, units = express(model, anatomy.blocks, needed)
    assert all(units[block] >= count for block, count in needed.items())
    feed_forward = {n for block, n in units.items() if block.part == "feed_forward"}
    assert feed_forward == {64 if family == "gpt2" else 32}


@pytest.mark.parametrize("family", ["vit", "t5"])
def test_a_compact_model_is_expressed_as_it_is(family):
    model = small_model(family)
    anatomy = read_anatomy(model)
    config, units = express(model, anatomy.blocks, needed_units(model, anatomy))
    assert units == {block: block.units for block in anatomy.blocks}
    assert not hasattr(config, "quantization_config")
    assert unexpressed(model, anatomy.blocks, config) == []


@pytest.mark.parametrize("family", ["bert", "vit", "llama", "t5"])
def test_single_units_that_are_read_as_no_block_are_named(family):
    model = small_model(family, 1)
    anatomy = read_anatomy(model)
    config, _ = express(model, anatomy.blocks, needed_units(model, anatomy))
    names = set(unexpressed(model, anatomy.blocks, config))
    read = {f"{m}.{leaf}" for b in anatomy.blocks for m in b.modules for leaf in ("weight", "bias")}
    read |= {c.parameter for block in anatomy.blocks for c in block.companions}
    layout = set(model.config.quantization_config["shapes"])
    assert names
    assert names <= layout <= names | read
