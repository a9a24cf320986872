"""A folder pruned from disk equals the model that is loaded, pruned and exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import GenerationConfig, MixtralConfig, MixtralForCausalLM

from hf_td import compact_model, export_model, patch_model, prune_folder, prune_model
from hf_td.patching.patch import find_patch
from hf_td.ranking.activations import attach_activations, measure_activations
from tests.tiny import TEXT, tiny_inputs, tiny_model, tiny_tokenizer, with_random_biases


def qwen() -> Any:
    torch.manual_seed(0)
    config = hf.Qwen2Config(**TEXT, num_key_value_heads=2, tie_word_embeddings=True)
    return with_random_biases(hf.Qwen2ForCausalLM(config)).eval()


def model_of(family: str) -> Any:
    return qwen() if family == "qwen" else tiny_model(family)


def content(folder: Path) -> dict[str, torch.Tensor]:
    return {n: t for file in folder.glob("*.safetensors") for n, t in load_file(file).items()}


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


UNIT: dict[str, Any] = {"level": "unit"}
WEIGHT: dict[str, Any] = {"level": "weight"}
SETTINGS: dict[str, dict[str, Any]] = {
    "unit": UNIT,
    "weight": WEIGHT,
    "2:4": WEIGHT | {"pattern": "2:4"},
    "neurons": UNIT | {"attention_level": "none"},
    "mixed": {"attention_level": "weight", "feed_forward_level": "unit"},
    "global": UNIT | {"budget": "global", "of": "parameters"},
    "random": UNIT | {"importance": "random"},
}


@pytest.mark.parametrize("family", ["llama", "qwen", "bert", "gpt2", "t5"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_it_equals_prune_model_and_export_model(tmp_path, family, setting):
    dtype = torch.bfloat16 if family == "qwen" else torch.float32
    model = model_of(family).to(dtype)
    model.save_pretrained(tmp_path / "dense")
    settings = SETTINGS[setting]
    report = prune_model(model, 0.5, **settings)
    expected = export_model(model, tmp_path / "expected", multiple_of=4, check=False)
    found = prune_folder(
        tmp_path / "dense", tmp_path / "found", 0.5, multiple_of=4, shard_bytes=20_000, **settings
    )
    assert found.report == report
    assert found.export.form == expected.form
    assert found.export.parameters == expected.parameters
    assert found.export.notes == expected.notes
    assert config_of(tmp_path / "found") == config_of(tmp_path / "expected")
    names = {path.name for path in (tmp_path / "found").iterdir()}
    assert {
        n.name for n in (tmp_path / "expected").iterdir() if n.suffix != ".safetensors"
    } <= names
    got, want = content(tmp_path / "found"), content(tmp_path / "expected")
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        assert torch.equal(got[name], tensor), name
    again = type(model).from_pretrained(tmp_path / "found", dtype=dtype)
    with torch.no_grad():
        outputs = [m.eval()(**tiny_inputs(m))[0].float() for m in (again, model)]
    assert_close(*outputs, atol=0.02 if dtype == torch.bfloat16 else 1e-5, rtol=1e-3)


def test_heads_are_kept_for_a_stock_form_on_demand(tmp_path):
    model = tiny_model("bert")
    model.save_pretrained(tmp_path / "dense")
    prune_model(model, 0.5, level="unit")
    keep: dict[str, Any] = {"keep_heads_stock": True, "multiple_of": 4}
    export_model(model, tmp_path / "expected", check=False, **keep)
    found = prune_folder(tmp_path / "dense", tmp_path / "found", 0.5, **UNIT, **keep)
    assert found.export.form == "stock"
    got, want = content(tmp_path / "found"), content(tmp_path / "expected")
    assert all(torch.equal(got[name], want[name]) for name in want)
    with pytest.raises(ValueError, match="a stock config cannot express the widths of bert"):
        prune_folder(tmp_path / "dense", tmp_path / "other", 0.5, form="stock", **UNIT)
    assert not (tmp_path / "other").exists()


def test_a_trained_model_is_ranked_as_in_its_training(tmp_path):
    model = patch_model(tiny_model("llama"), level="unit", importance="activation", targeting=0.5)
    patch: Any = find_patch(model)
    names = [site.name for site in patch.sites]
    attach_activations(model, measure_activations(model, names, [tiny_inputs(model)]))
    model.save_pretrained(tmp_path / "dense")
    assert (tmp_path / "dense" / "activations.safetensors").is_file()
    prune_model(model, 0.5)
    export_model(model, tmp_path / "expected", check=False)
    prune_folder(tmp_path / "dense", tmp_path / "found", 0.5)
    got, want = content(tmp_path / "found"), content(tmp_path / "expected")
    assert all(torch.equal(got[name], want[name]) for name in want)
    assert not (tmp_path / "found" / "activations.safetensors").exists()  # of other widths


def test_other_files_are_carried_along_and_weights_are_not(tmp_path):
    model: Any = tiny_model("llama")
    model.generation_config = GenerationConfig(top_k=7, do_sample=True)
    model.save_pretrained(tmp_path / "dense")
    tiny_tokenizer().save_pretrained(tmp_path / "dense")
    (tmp_path / "dense" / "LICENSE").write_text("free")
    (tmp_path / "dense" / "README.md").write_text("the dense model")
    stale = {"pytorch_model.bin", "metrics.json", "curve.png", "trainer_state.json", "whole.json"}
    stale |= {"training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt"}
    stale |= {f"{part}_results.json" for part in ("all", "train", "eval", "test", "predict")}
    for name in stale:  # of the dense model and its training
        (tmp_path / "dense" / name).write_bytes(b"old")
    prune_folder(tmp_path / "dense", tmp_path / "found", 0.5, **UNIT)
    names = {path.name for path in (tmp_path / "found").iterdir()}
    assert {"LICENSE", "tokenizer.json", "tokenizer_config.json"} <= names
    assert not names & stale
    assert "the dense model" not in (tmp_path / "found" / "README.md").read_text()
    assert "50.0%" in (tmp_path / "found" / "README.md").read_text()
    assert GenerationConfig.from_pretrained(tmp_path / "found").top_k == 7
    assert hf.AutoTokenizer.from_pretrained(tmp_path / "found")("word")["input_ids"] == [2]


def test_an_error_leaves_nothing_behind(tmp_path, monkeypatch):
    tiny_model("llama").save_pretrained(tmp_path / "dense")
    broken = "hf_td.hub.from_disk.prune._check_shapes"
    monkeypatch.setattr(broken, lambda *_: (_ for _ in ()).throw(RuntimeError("torn")))
    with pytest.raises(RuntimeError, match="torn"):
        prune_folder(tmp_path / "dense", tmp_path / "found", 0.5, **UNIT)
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_the_source_is_unchanged(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path / "dense")
    before = (tmp_path / "dense" / "model.safetensors").read_bytes()
    prune_folder(tmp_path / "dense", tmp_path / "found", 0.5, **WEIGHT)
    assert (tmp_path / "dense" / "model.safetensors").read_bytes() == before


def test_a_wrong_shape_is_found_before_anything_is_written(tmp_path, monkeypatch):
    tiny_model("llama").save_pretrained(tmp_path / "dense")
    broken = "hf_td.hub.from_disk.prune.cut_parameters"
    monkeypatch.setattr(broken, lambda *_: {})
    with pytest.raises(RuntimeError, match=r"was written with the shape .*; nothing was written"):
        prune_folder(tmp_path / "dense", tmp_path / "found", 0.5, **UNIT)
    assert not (tmp_path / "found").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (WEIGHT | {"budget": "global"}, "a global budget or rank_over='model' ranks all single"),
        (WEIGHT | {"rank_over": "model"}, "a global budget or rank_over='model' ranks all single"),
        (UNIT | {"form": "padded"}, r"needs the whole model in memory. Give one of \['auto'"),
        (UNIT | {"importance": "taylor"}, "importance 'taylor' looks at gradients"),
        (WEIGHT | {"pattern": "1:4"}, "the pattern takes 0.25 of the weights"),
    ],
)
def test_what_needs_the_whole_model_is_refused(tmp_path, settings, message):
    tiny_model("llama").save_pretrained(tmp_path / "dense")
    with pytest.raises(ValueError, match=message):
        prune_folder(tmp_path / "dense", tmp_path / "found", 0.5, **settings)
    assert not (tmp_path / "found").exists()


def test_compact_folders_are_refused(tmp_path):
    model = tiny_model("bert")
    prune_model(model, 0.5, level="unit")
    compact_model(model).save_pretrained(tmp_path / "compact")
    with pytest.raises(ValueError, match="has quantised or compact weights"):
        prune_folder(tmp_path / "compact", tmp_path / "found", 0.5, **UNIT)


@pytest.mark.parametrize("family", ["mixtral", "vit"])
def test_weights_that_are_converted_when_they_are_loaded_are_refused(tmp_path, family):
    sizes = {**TEXT, "num_key_value_heads": 2, "num_local_experts": 4}
    mixture = MixtralForCausalLM(MixtralConfig(**sizes))
    (mixture if family == "mixtral" else tiny_model(family)).save_pretrained(tmp_path / "dense")
    with pytest.raises(ValueError, match="Transformers converts these weights when it loads"):
        prune_folder(tmp_path / "dense", tmp_path / "found", 0.5, **UNIT)


def test_folders_without_safetensors_or_a_class_are_refused(tmp_path):
    model: Any = tiny_model("llama")
    model.config.save_pretrained(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match=r"has neither model.safetensors nor"):
        prune_folder(tmp_path / "empty", tmp_path / "found", 0.5, **UNIT)
    save_file({"w": torch.ones(2, 2)}, tmp_path / "empty" / "model.safetensors")
    with pytest.raises(ValueError, match="names no class of Transformers"):
        prune_folder(tmp_path / "empty", tmp_path / "found", 0.5, **UNIT)
