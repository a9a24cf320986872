"""Towers and other parts of a compact model load wherever those of a stock model do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from transformers import PreTrainedModel

from hf_td import compact_model, export_model, prune_model
from hf_td.compaction import layout_of_model
from tests.compaction.models import parameters_of
from tests.tiny import SIZES

_TEXT: dict[str, Any] = {**SIZES, "vocab_size": 64}
_IMAGE: dict[str, Any] = {**SIZES, "image_size": 16, "patch_size": 8}
_GROUPED: dict[str, Any] = {**_TEXT, "num_key_value_heads": 2, "head_dim": 8}
_SPEECH: dict[str, Any] = {
    "vocab_size": 64,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}


def clip() -> PreTrainedModel:
    sizes: dict[str, Any] = {"projection_dim": 16}
    config = hf.CLIPConfig(text_config=_TEXT | sizes, vision_config=_IMAGE | sizes, **sizes)
    return hf.CLIPModel(config)


def siglip() -> PreTrainedModel:
    return hf.SiglipModel(hf.SiglipConfig(text_config=_TEXT, vision_config=_IMAGE))


def qwen() -> PreTrainedModel:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    layers = {"layer_types": ["full_attention"] * 2}
    text = {**_GROUPED, **layers, "rope_parameters": {**rope, "partial_rotary_factor": 1.0}}
    images = {"depth": 2, "num_heads": 4, "patch_size": 4, "out_hidden_size": 32}
    images |= {"hidden_size": 32, "intermediate_size": 64, "num_position_embeddings": 16}
    return hf.Qwen3_5ForConditionalGeneration(
        hf.Qwen3_5Config(text_config=text, vision_config=images)
    )


def bert(*, decoder: bool) -> Any:
    config = hf.BertConfig(**_TEXT, is_decoder=decoder, add_cross_attention=decoder)
    return hf.BertLMHeadModel(config) if decoder else hf.BertModel(config)


def encoder_decoder() -> PreTrainedModel:
    return hf.EncoderDecoderModel(encoder=bert(decoder=False), decoder=bert(decoder=True))


def bart() -> PreTrainedModel:
    return hf.BartForConditionalGeneration(hf.BartConfig(**_SPEECH))


def small(model: Any) -> Any:
    """Return a compact model with half of its units."""
    prune_model(model.eval(), 0.5, level="unit")
    return compact_model(model)


def assert_equal(model: Any, other: Any) -> None:
    theirs = parameters_of(other)
    assert parameters_of(model).keys() == theirs.keys()
    for name, value in parameters_of(model).items():
        assert torch.equal(value, theirs[name]), name


def made(make: Callable[[], PreTrainedModel]) -> Any:
    torch.manual_seed(0)
    return small(make())


@pytest.mark.parametrize("make", [clip, siglip, qwen, encoder_decoder, bart])
def test_a_composite_loads_as_a_whole(make, tmp_path):
    model = made(make)
    model.save_pretrained(tmp_path)
    found = type(model).from_pretrained(tmp_path)
    assert_equal(found, model)
    assert layout_of_model(found) == layout_of_model(model)
    found.save_pretrained(tmp_path / "again")
    layouts = [json.loads((tmp_path / name / "config.json").read_text()) for name in (".", "again")]
    assert layouts[0]["quantization_config"] == layouts[1]["quantization_config"]


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (clip, "text_model"),
        (clip, "vision_model"),
        (siglip, "text_model"),
        (siglip, "vision_model"),
        (qwen, "model.language_model"),
        (bart, "model"),
    ],
)
def test_a_part_loads_from_the_checkpoint_of_the_whole(make, part, tmp_path):
    model = made(make)
    model.save_pretrained(tmp_path)
    tower = model.get_submodule(part)
    assert_equal(type(tower).from_pretrained(tmp_path), tower)


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (clip, "text_model"),
        (siglip, "vision_model"),
        (qwen, "model.visual"),
        (encoder_decoder, "encoder"),
        (encoder_decoder, "decoder"),
        (bart, "model.encoder"),  # shares the config of the whole
        (bart, "model.decoder"),
    ],
)
def test_a_part_that_is_saved_alone_loads(make, part, tmp_path):
    model = made(make)
    tower = model.get_submodule(part)
    tower.save_pretrained(tmp_path)
    assert (tmp_path / "modeling_hf_td.py").is_file()
    assert_equal(type(tower).from_pretrained(tmp_path), tower)
    layout = layout_of_model(model)
    assert layout is not None
    assert layout.shapes.keys() <= parameters_of(model).keys()


def test_the_language_model_of_a_composite_loads_by_its_auto_class(tmp_path):
    model = made(qwen)
    model.save_pretrained(tmp_path / "whole")
    # Transformers puts the layout of the whole into the config of the text model here.
    found: Any = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    assert_equal(found.model, model.model.language_model)
    found.save_pretrained(tmp_path / "text")
    assert_equal(type(found).from_pretrained(tmp_path / "text"), found)


def test_the_head_of_a_tower_loads_from_the_whole(tmp_path):
    model = made(clip)
    model.save_pretrained(tmp_path)
    found: Any = hf.CLIPTextModelWithProjection.from_pretrained(tmp_path)
    assert_equal(found.text_model, model.text_model)
    assert torch.equal(found.text_projection.weight, model.text_projection.weight)


@pytest.mark.parametrize("whole", ["both", "decoder"])
def test_a_composite_of_compact_parts_loads(whole, tmp_path):
    encoder, decoder = bert(decoder=False), small(bert(decoder=True))
    model = hf.EncoderDecoderModel(
        encoder=small(encoder) if whole == "both" else encoder, decoder=decoder
    )
    model.save_pretrained(tmp_path / "first")
    found: Any = hf.EncoderDecoderModel.from_pretrained(tmp_path / "first")
    assert_equal(found, model)
    assert layout_of_model(found) is not None
    found.save_pretrained(tmp_path / "second")
    assert (tmp_path / "second/modeling_hf_td.py").is_file()


def test_a_composite_whose_encoder_alone_was_made_compact_fails_loudly(tmp_path):
    model = hf.EncoderDecoderModel(encoder=small(bert(decoder=False)), decoder=bert(decoder=True))
    model.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        hf.EncoderDecoderModel.from_pretrained(tmp_path)


def test_no_layout_is_left_in_a_stock_config(tmp_path: Path):
    model = clip()
    prune_model(model.eval(), 0.5, level="unit", attention_level="none")
    export = export_model(compact_model(model), tmp_path / "x", form="stock")
    assert "quantization_config" not in (export.folder / "config.json").read_text()
    assert not (export.folder / "modeling_hf_td.py").exists()
