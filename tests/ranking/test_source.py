"""A pruned model names no folder: what is loaded by the name would be the model before pruning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from hf_td import anneal, compact_model, export_model, patch_model, prune_model, unpatch_model
from hf_td.ranking.activations import FILE, Activations, find_activations, load_activations
from tests.tiny import tiny_inputs, tiny_model


def trained(family: str = "bert") -> Any:
    """Return a tiny model that was trained for two updates, importance by activation."""
    model = patch_model(tiny_model(family), level="unit", targeting=0.5)
    for update in range(2):
        anneal(model.train(), update / 2, update)
        model(**tiny_inputs(model))[0].square().mean().backward()
        model.zero_grad()
    return model.eval()


def loaded(family: str, folder: Any) -> Any:
    model = tiny_model(family)
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder)


def names_of(model: Any) -> set[str]:
    return {model.name_or_path, model.config._name_or_path, model.base_model.name_or_path}


def test_a_pruned_model_names_no_folder(tmp_path):
    model = loaded("llama", tmp_path)
    assert names_of(model) == {str(tmp_path)}
    prune_model(model, 0, level="unit")
    assert names_of(model) == {str(tmp_path)}
    prune_model(model, 0.5, level="unit")
    assert names_of(model) == {""}
    with pytest.raises(OSError, match="Repo id"):  # as trl loads the reference of a policy
        AutoModelForCausalLM.from_pretrained(model.config._name_or_path)


def test_a_compact_model_names_no_folder_until_it_is_loaded(tmp_path):
    model = loaded("bert", tmp_path / "dense")
    prune_model(model, 0.5, level="unit")
    compact_model(model).save_pretrained(tmp_path / "small")
    assert names_of(model) == {""}
    assert names_of(type(model).from_pretrained(tmp_path / "small")) == {str(tmp_path / "small")}


def test_an_adapter_of_a_pruned_model_names_no_base(tmp_path):
    model = loaded("llama", tmp_path)
    before: Any = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    assert before.peft_config["default"].base_model_name_or_path == str(tmp_path)
    prune_model(before, 0.5, level="unit", attention_level="none")
    assert before.peft_config["default"].base_model_name_or_path is None


def test_an_export_leaves_the_name_of_the_model(tmp_path):
    model = loaded("bert", tmp_path / "dense")
    export_model(model, tmp_path / "x", check=False)
    assert names_of(model) == {str(tmp_path / "dense")}


def test_a_loaded_model_is_pruned_twice_by_its_activations(tmp_path):
    trained().save_pretrained(tmp_path)
    model = type(tiny_model("bert")).from_pretrained(tmp_path)
    assert prune_model(model, 0.25).sparsity == pytest.approx(0.25)
    assert prune_model(model, 0.5).sparsity == pytest.approx(0.5)


def test_every_save_writes_the_activations(tmp_path):
    model = trained()
    arguments = TrainingArguments(tmp_path / "run", use_cpu=True)
    Trainer(model, arguments).save_model(str(tmp_path / "stock"))  # a stock Trainer
    unpatch_model(model).save_pretrained(tmp_path / "own")
    known = find_activations(model)
    assert known is not None
    for folder in ("stock", "own"):
        found = Activations.load(tmp_path / folder)
        assert found is not None
        torch.testing.assert_close(found.mean_squares, known.mean_squares)


def test_neither_an_export_nor_a_compact_model_has_activations_of_larger_layers(tmp_path):
    model = trained()
    prune_model(model, 0.5)
    export_model(model, tmp_path / "x", check=False)
    compact_model(model).save_pretrained(tmp_path / "y")
    assert not (tmp_path / "x" / FILE).exists()
    assert not (tmp_path / "y" / FILE).exists()


def test_a_compact_model_that_is_trained_on_misses_no_activations(tmp_path, caplog):
    model = trained()
    prune_model(model, 0.5)
    compact_model(model).save_pretrained(tmp_path)
    patch_model(type(model).from_pretrained(tmp_path), level="unit")
    assert "are missing" not in caplog.text


def test_activations_that_are_not_found_are_told_with_the_place(tmp_path, monkeypatch, caplog):
    trained().save_pretrained(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    model: Any = type(tiny_model("bert")).from_pretrained("run")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    with pytest.raises(ValueError, match=r"since run is none from the working directory .*other"):
        prune_model(model, 0.5)
    patch_model(model, level="unit")
    assert "The averages start anew" in caplog.text
    assert "load_activations(model, folder)" in caplog.text
    unpatch_model(model)
    load_activations(model, tmp_path / "run")
    assert prune_model(model, 0.5).sparsity == pytest.approx(0.5)
    assert "start anew" not in caplog.text.partition("load_activations(model, folder)")[2]
