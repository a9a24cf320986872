from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lab.coverage import survey
from lab.coverage.page import END, START, coverage_section, write_section
from lab.coverage.run import finished, registered_types, survey_all
from lab.coverage.survey import make_twin, survey_type
from lab.coverage.twins import RECIPES, Recipe, shrunk
from transformers import AutoModel, BertConfig, LlamaConfig, Qwen3NextConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.programs import load_script as _load
from tests.tables import unpadded

# Type to outcome, blocks of the twin, and blocks whose units can be dropped.
SAMPLE: dict[str, tuple[str, int, int]] = {
    "bert": ("passed", 4, 4),
    "llama": ("passed", 4, 4),
    "gpt_neox": ("passed", 4, 4),  # fused head by head
    "dots3_note_text": ("passed", 8, 5),  # two layers make the queries of one head
    "swinv2": ("passed", 8, 8),  # changes the output of a layer in place
    "ctrl": ("passed", 4, 4),  # projections that differ in a number only: ffn.0 and ffn.2
    "codegen": ("passed", 4, 2),  # fused in groups of heads
    "t5": ("passed", 10, 10),  # tied position bias
    "clip": ("passed", 8, 8),  # two encoders side by side
    "swin": ("passed", 8, 8),  # windows, stages of different widths
    "whisper": ("passed", 10, 10),  # spectrogram
    "wav2vec2": ("passed", 4, 4),  # waveform
    "llava": ("passed", 8, 8),  # the vision tower does not run on text
    "vilt": ("passed", 4, 4),  # draws in eval mode too
    "mobilebert": ("passed", 20, 10),  # bottlenecks before queries and keys
}


@pytest.fixture(autouse=True)
def nothing_read_or_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_td.anatomy.reading._READINGS", {})
    monkeypatch.setattr("hf_td.anatomy.registry._FAMILIES", {})


@pytest.mark.parametrize("model_type", SAMPLE)
@pytest.mark.filterwarnings("ignore")  # of default configs, by transformers
def test_a_sample_of_types_goes_the_whole_way(model_type):
    record = survey_type(model_type)
    found = (record["outcome"], record["blocks"], record["droppable"])
    assert found == SAMPLE[model_type], record.get("reason")
    assert record["weight"]
    assert record["unit"]
    assert json.loads(json.dumps(record)) == record


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("model_type", "outcome", "reason"),
    [
        ("resnet", "no projections", None),
        ("bitnet", "refused", "found no attention or feed-forward block"),
        ("blip", "patched", "the forward fails, first at vision_model"),
        ("timm_backbone", "not built", "timm"),
    ],
)
def test_what_does_not_go_the_whole_way_says_why(model_type, outcome, reason):
    record = survey_type(model_type)
    assert record["outcome"] == outcome
    assert reason is None or reason in record["reason"]


def test_a_wrong_cut_is_a_mismatch(monkeypatch):
    def wrong(model: Any, **_: Any) -> None:
        raise ValueError("the compact model differs from the masked one, first in x: by 1")

    monkeypatch.setattr("lab.coverage.survey.compact_model", wrong)
    assert survey_type("bert")["outcome"] == "mismatch"


@pytest.mark.parametrize(
    ("file", "error", "outcome"),
    [
        ("patching/layers.py", TypeError("x"), {"outcome": "mismatch"}),
        ("patching/layers.py", ValueError("x"), {}),
        ("anatomy/trace.py", TypeError("x"), {}),
    ],
)
def test_an_error_of_the_library_that_is_no_refusal_is_a_mismatch(file, error, outcome):
    names = {"error": error}
    exec(compile("def fail(): raise error", survey.hf_td.__path__[0] + "/" + file, "exec"), names)
    with pytest.raises(type(error)) as raised:
        names["fail"]()
    assert survey.blame(raised.value) == outcome


# --- twins ---


def test_a_twin_keeps_heads_and_groups_and_divides_every_width():
    config = LlamaConfig(num_key_value_heads=8)
    small = shrunk(config, Recipe(16))
    assert (small.num_attention_heads, small.num_key_value_heads) == (32, 8)
    assert (small.hidden_size, small.intermediate_size) == (4096 // 16, 11008 // 16)
    assert small.num_hidden_layers == 2
    assert config.hidden_size == 4096


def test_a_twin_has_every_kind_of_layer():
    small = shrunk(Qwen3NextConfig(), Recipe(16, experts=4))
    assert small.layer_types == ["linear_attention"] * 3 + ["full_attention"]
    assert small.num_hidden_layers == 4
    assert small.num_experts == 4


def test_the_ids_of_special_tokens_stay_inside_and_apart():
    config = BertConfig(pad_token_id=30000, bos_token_id=30001, eos_token_id=2)
    small = shrunk(config, Recipe(16, words=100))
    ids = [small.pad_token_id, small.bos_token_id, small.eos_token_id]
    assert small.vocab_size == 100
    assert len({*ids}) == 3
    assert max(ids) < 100


def test_a_recipe_that_fails_is_followed_by_the_next():
    twin = make_twin(CONFIG_MAPPING["swin"](), AutoModel.from_config)
    assert twin.recipe in RECIPES[1:]
    assert all(torch.isfinite(p).all() for p in twin.model.parameters())


# --- the whole survey ---


def test_a_finished_type_is_not_run_again(tmp_path):
    results = tmp_path / "coverage.jsonl"
    results.write_text('{"type": "bert", "outcome": "kept"}\n')
    survey_all(results, ["bert", "resnet"], processes=1)
    found = finished(results)
    assert found["bert"]["outcome"] == "kept"
    assert found["resnet"]["outcome"] == "no projections"
    assert len(results.read_text().splitlines()) == 2


def test_a_type_that_ends_its_process_is_recorded_and_the_others_run(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "lab.coverage.run._CODE",
        "import os, sys, lab.coverage.run as run\n"
        "real = run.survey_type\n"
        "run.survey_type = lambda t: os._exit(3) if t == 'bert' else real(t)\n"
        "run.survey_chunk(sys.argv[1:])",
    )
    survey_all(tmp_path / "r.jsonl", ["bert", "resnet"], processes=1)
    found = finished(tmp_path / "r.jsonl")
    assert found["bert"]["reason"] == "its process ended with status 3"
    assert found["resnet"]["outcome"] == "no projections"


def test_hundreds_of_types_are_registered():
    assert len(registered_types()) > 500


@pytest.mark.filterwarnings("ignore")
def test_the_script_writes_between_the_markers_and_leaves_the_rest(tmp_path, capsys):
    page = tmp_path / "families.md"
    page.write_text(f"# Title\n\nbefore\n\n{START}\nold\n{END}\n\nafter\n")
    results = tmp_path / "coverage.jsonl"
    arguments = ["--types", "llama,resnet", "--results", str(results), "--write", str(page)]
    assert _load("coverage").main([*arguments, "--processes", "1"]) == 0
    text = unpadded(page.read_text())
    assert text.startswith(f"# Title\n\nbefore\n\n{START}\n## Every registered model type")
    assert text.endswith(f"{END}\n\nafter\n")
    assert "old" not in text
    assert "| patched at the unit level | 1 | 100.0% |" in text
    assert "| mismatches | 0 |" in text
    assert "| llama /16 | 2 x 32 heads of 8 in 32 units | 2 x 688 gated neurons |" in text
    assert "1 passed, 1 no projections" in capsys.readouterr().out
    with results.open("a") as file:
        file.write('{"type": "resnet", "outcome": "mismatch", "seconds": 0}\n')
    assert _load("coverage").main(arguments[:4]) == 1


def test_half_a_pair_of_markers_is_refused(tmp_path):
    page = Path(tmp_path) / "page.md"
    page.write_text(f"{START}\n")
    with pytest.raises(ValueError, match="one of the markers"):
        write_section(page, "text")


def test_reasons_are_grouped_without_names_and_numbers():
    record = {"outcome": "refused", "projections": True}
    records = [
        {**record, "type": "a", "reason": "ValueError: AModel takes 3, got 4"},
        {**record, "type": "b", "reason": "ValueError: BModel takes 5, got 6"},
    ]
    facts = {"versions": {}, "hardware": {"cores": 2, "cpu": ""}, "command": "", "seed": 0}
    section = unpadded(coverage_section(records, {**facts, "commit": ""}))
    assert "| 2 | refused | the model takes #, got # | a, b |" in section
