"""The benchmark of generation, on a tiny Llama, and its part of a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lab.benchmarks.writing import writing_section
from transformers import LlamaConfig, LlamaForCausalLM

from hf_td.files import read_json_lines
from hf_td.tasks.errors import UsageError
from tests.programs import argv_of, load_script
from tests.scripts.test_run_clm import folder, text, tokenizer  # noqa: F401 - fixtures
from tests.tables import unpadded
from tests.tiny import SIZES

bench = load_script("bench_generation")


@pytest.fixture
def options(folder, tokenizer, tmp_path) -> dict[str, Any]:  # noqa: F811
    model = tmp_path / "model"
    tokenizer.save_pretrained(model)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), **SIZES, num_key_value_heads=2, initializer_range=0.5
    )
    LlamaForCausalLM(config).save_pretrained(model)
    return {
        "rounds": 2,
        "written": 4,
        "results": tmp_path / "lines.jsonl",
        "model_name_or_path": model,
        "dataset_name": folder,
        "block_size": 64,
        "calibration_samples": 2,
        "level": "unit",
        "sparsities": [0, 0.5],
        "use_cpu": True,
    }


def test_a_line_for_each_sparsity_has_speed_bytes_and_text(options):
    bench.main(argv_of(options))
    dense, half = read_json_lines(options["results"])
    assert (dense["sparsity"], half["sparsity"]) == (0, 0.5)
    assert dense["parameters"] > half["parameters"]
    assert dense["prompt"] == half["prompt"] != ""
    assert dense["text"] != half["text"]
    for line in (dense, half):
        # The config, the tokenizer and the file that loads it come on top.
        assert 4 * line["parameters"] < line["bytes"] < 4 * line["parameters"] + 100_000
        assert [speed["batch"] for speed in line["speed"]] == [1, 8]
        for speed in line["speed"]:
            assert speed["tokens_per_second"]["median"] > 0
            assert speed["speedup"]["median"] > 0
    page = unpadded(writing_section([dense, half, half]))
    assert page.count("| 50% |") == 3  # two speeds and a text
    assert json.dumps(half["prompt"])[1:5] in page


def test_single_weights_are_refused(options):
    with pytest.raises(UsageError, match="Give --level unit"):
        bench.main(argv_of({**options, "level": "weight"}))
    assert not Path(options["results"]).exists()


def test_a_page_without_lines_is_refused(tmp_path):
    report = load_script("sweep_report")
    with pytest.raises(UsageError, match=r"no lines of scripts/bench_generation"):
        report._writing(tmp_path / "nothing.jsonl")
