"""The benchmark of waiting times: its records, on small models, and its table."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lab.benchmarks import pruning
from lab.benchmarks.pruning import CASES, measure_case, pruning_section
from transformers import BertConfig, BertForSequenceClassification

from tests.tables import unpadded

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "vocab_size": 64,
}


def test_ratios_are_taken_in_each_round():
    record = pruning._compared([2.0, 6.0, 30.0], [1.0, 2.0, 30.0], memory_ratio=1.1)
    assert record["seconds"] == 6.0
    assert record["baseline_seconds"] == 2.0
    assert record["ratio"] == 2.0  # of 2, 3 and 1
    assert record["spread"] == {"median": 2.0, "low": 1.5, "high": 2.5}
    assert record["rounds"] == 3
    assert record["memory_ratio"] == 1.1


def test_patches_and_curves_are_timed(monkeypatch):
    monkeypatch.setattr(pruning, "BERT_LARGE", SMALL)
    monkeypatch.setattr(pruning, "BertConfig", lambda **sizes: BertConfig(**SMALL))
    monkeypatch.setattr(pruning, "EVALUATED", (2, 8))
    patch = measure_case("later_patch", 2)
    assert patch["aim"] == "under 50 ms"
    assert patch["met"] is (patch["seconds"] < 0.05)
    for case in ("weight_curve", "unit_curve"):
        curve = measure_case(case, 2)
        assert curve["seconds"] > curve["baseline_seconds"] > 0
        assert curve["ratio"] > 1
        assert curve["met"] is (curve["ratio"] <= 1.05)


def test_a_big_model_is_written_in_every_way(monkeypatch, tmp_path):
    sizes = {**SMALL, "num_key_value_heads": 2, "tie_word_embeddings": True}
    monkeypatch.setattr(pruning, "LLAMA_1B", sizes)
    for way in ("save", "compact", "unchecked"):
        found = pruning.write_big_model(way, str(tmp_path))
        assert found["seconds"] > 0
        assert (tmp_path / way / "model.safetensors").is_file()
    sizes = [(tmp_path / way / "model.safetensors").stat().st_size for way in ("save", "compact")]
    assert sizes[1] < 0.8 * sizes[0]


def test_big_models_have_no_rows_that_are_alike():
    model = pruning._with_noise(lambda: BertForSequenceClassification(BertConfig(**SMALL)))
    weight = model.get_parameter("bert.encoder.layer.1.intermediate.dense.weight")
    assert len(torch.unique(weight.detach(), dim=0)) == 256


def test_a_failed_process_says_why():
    with pytest.raises(RuntimeError, match=r"process of its own failed.*\n.*no such thing"):
        pruning._in_fresh_process("raise SystemExit('no such thing')")


def test_the_table_has_the_last_of_repeated_measurements():
    spread = {"median": 1.4, "low": 1.3, "high": 1.6}
    hardware = {"cpu": "Quick CPU", "gpus": []}
    facts = {"threads": 1, "spread": spread, "aim": "at most 5 % more", "met": False}
    facts["hardware"] = hardware
    compared = {"seconds": 1.2, "baseline_seconds": 1.0, "ratio": 1.2, "memory_ratio": 1.045}
    patch = {"case": "later_patch", "seconds": 0.006, **facts, "met": True}
    lines = [{"case": "export", **facts, **compared, "ratio": 9.0}, patch]
    table = pruning_section([*lines, {"case": "export", **facts, **compared}])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert len(rows) == 4
    assert rows[2][0].startswith("`patch_model`, BERT-large, again")
    assert rows[2][2:] == ["0.006 (1.3 to 1.6)", "", "", "", "at most 5 % more", "yes"]
    assert rows[3][2:5] == ["1.2", "1", "1.200 (1.3 to 1.6)"]
    assert rows[3][5:] == ["1.04", "at most 5 % more", "**no**"]


def test_the_table_has_a_line_for_each_kind_of_machine():
    facts = {"seconds": 1.0, "spread": {"low": 1.0, "high": 1.0}, "aim": "under 50 ms"}
    measured = [("first_patch", 1, "Slow CPU"), ("first_patch", 2, "Quick CPU")]
    lines: list[dict[str, Any]] = [
        {"case": case, "threads": threads, "met": True, "hardware": {"cpu": cpu, "gpus": []}}
        for case, threads, cpu in measured
    ]
    gpu = {"cpu": "Quick CPU", "gpus": ["A GPU"]}
    lines += [
        {"case": "import", "threads": 2, "met": True, "hardware": gpu},
        {"case": "measured no longer", "threads": 2, "met": False, "hardware": gpu},
    ]
    table = unpadded(pruning_section([line | facts for line in lines]))
    on = [row.split(" | ")[1] for row in table.splitlines()[2:]]
    assert on == ["1 core, Slow CPU", "2 cores, Quick CPU", "2 cores, Quick CPU"]


def test_every_case_has_a_label():
    assert set(pruning._LABELS) == set(CASES)
