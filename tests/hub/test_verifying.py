"""Exports are loaded again and compared, and those that are something else are refused."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    ViTMAEConfig,
    ViTMAEForPreTraining,
)

from hf_td import prune_model
from hf_td.hub import verify
from hf_td.hub.export import export_model
from hf_td.hub.forms.stock import Stock
from tests.compaction.models import (
    assert_same,
    computed,
    every_family,
    masked_model,
    neurons_pruned,
    uneven_model,
)
from tests.tiny import tiny_inputs, tiny_model


def test_an_uneven_export_loads_with_hf_td_and_as_remote_code(tmp_path):
    done = export_model(uneven_model("bert"), tmp_path / "x")
    assert done.ways == ("hf_td", "remote_code")
    config = json.loads((done.folder / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["auto_map"] == {"AutoConfig": "modeling_hf_td.CompactModelConfig"}
    assert (done.folder / "modeling_hf_td.py").is_file()


def test_an_even_export_loads_without_hf_td_and_generates(tmp_path):
    model = masked_model("llama")
    done = export_model(model, tmp_path / "x")
    assert (done.form, done.ways) == ("stock", ("stock",))
    assert_same(AutoModelForCausalLM.from_pretrained(done.folder), computed(model))


@pytest.mark.slow
@every_family
@pytest.mark.parametrize("form", ["auto", "compact", "padded"])
def test_every_form_of_every_family_loads_in_a_fresh_process(family, form, tmp_path):
    done = export_model(uneven_model(family), tmp_path / "x", form=form)
    assert done.ways


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_type_is_verified(dtype, tmp_path):
    model: Any = uneven_model("llama")
    assert export_model(model.to(dtype), tmp_path / "x").ways


def test_an_export_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    def spoilt(self: Stock, shell: Any, folder: Path, *rest: Any) -> None:
        spoilt_shell = copy.deepcopy(shell)
        spoilt_shell.classifier.weight.data.mul_(2)
        spoilt_shell.save_pretrained(folder)

    monkeypatch.setattr(Stock, "write", spoilt)
    with pytest.raises(RuntimeError, match=r"reloaded export \(stock\) .* its output differs by"):
        export_model(neurons_pruned("bert"), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_an_export_in_another_type_is_refused(tmp_path, monkeypatch):
    def widened(self: Stock, shell: Any, folder: Path, *rest: Any) -> None:
        copy.deepcopy(shell).float().save_pretrained(folder)

    monkeypatch.setattr(Stock, "write", widened)
    with pytest.raises(RuntimeError, match=r"the dtype torch\.float32, where torch\.bfl"):
        export_model(neurons_pruned("bert").bfloat16(), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_export_that_does_not_load_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Stock, "write", lambda *_: None)
    with pytest.raises(RuntimeError, match=r"does not load in a fresh process \(stock, AutoModel"):
        export_model(neurons_pruned("bert"), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_modules_beside_the_program_that_loads_an_export_hide_no_others(tmp_path, monkeypatch):
    (tmp_path / "neighbour.py").touch()
    (tmp_path / "program.py").write_text("import neighbour")
    monkeypatch.setattr(verify.reload, "__file__", str(tmp_path / "program.py"))
    with pytest.raises(RuntimeError, match="No module named 'neighbour'"):
        export_model(masked_model("bert"), tmp_path / "x")


@pytest.mark.slow
def test_what_remote_code_loaded_is_exported_again(tmp_path):
    model = uneven_model("bert")
    export_model(model, tmp_path / "first", check=False)
    code = """
        import sys
        from transformers import AutoModelForSequenceClassification as A
        from hf_td import prune_model
        from hf_td.hub.export import export_model
        model = A.from_pretrained(sys.argv[1], trust_remote_code=True)
        assert type(model).__name__ == "BertForSequenceClassification"
        print(export_model(model, sys.argv[2]))
        assert type(model).__name__ == "BertForSequenceClassification"
    """
    command = [sys.executable, "-c", textwrap.dedent(code), tmp_path / "first", tmp_path / "second"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert_same(type(model).from_pretrained(tmp_path / "second"), computed(model))


@pytest.mark.slow
def test_an_input_of_the_callers_own_is_used(tmp_path):
    model = masked_model("vit")
    batches: list[int] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: batches.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    export_model(model, tmp_path / "x", example_inputs=tiny_inputs(model, batch=5))
    assert set(batches) == {5}


def test_a_model_that_draws_in_eval_mode_is_compared_at_the_same_draws(tmp_path):
    config = ViTMAEConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        decoder_hidden_size=32,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=64,
    )
    model = ViTMAEForPreTraining(config).eval()
    prune_model(model, 0.5, level="unit")
    assert export_model(model, tmp_path / "x").ways == ("stock",)


def test_settings_of_generation_do_not_hinder_the_check(tmp_path):
    model = tiny_model("llama")
    prune_model(model, 0.5, level="unit")
    settings = model.generation_config
    settings.do_sample, settings.num_return_sequences = True, 2
    settings.return_dict_in_generate = True
    assert export_model(model, tmp_path / "x").folder.is_dir()


def test_in_half_precision_the_output_is_compared_and_no_token(tmp_path, monkeypatch):
    model = tiny_model("llama").bfloat16()
    prune_model(model, 0.5, level="unit")
    compared = []
    monkeypatch.setattr(verify, "compare_outputs", lambda name, *_: compared.append(name))
    export_model(model, tmp_path / "x")
    assert set(compared) == {"its output"}
