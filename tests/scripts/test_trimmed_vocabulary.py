"""--trim_vocabulary trains, measures and exports a model with the tokens of its training text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from hf_td.tasks.errors import UsageError
from hf_td.tasks.glue.acceptability import generate
from hf_td.tasks.registry import run_task
from tests.programs import argv_of, results_of
from tests.tiny import SIZES

TEXTS = list(generate(train_size=200)["train"]["sentence"][:2])
SPECIAL = {"[PAD]", "[UNK]"}
WORDS = {word for text in TEXTS for word in re.findall(r"\w+|[^\w\s]+", text)}


@pytest.fixture
def own(options, tmp_path) -> dict[str, Any]:
    """Return arguments of a run on two texts."""
    del options["task_name"]
    path = tmp_path / "own.jsonl"
    rows = [{"text": TEXTS[i % 2], "label": i % 2} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {**options, "train_file": str(path), "sparsities": [0, 0.5], "level": "unit"}


def test_a_run_with_fewer_tokens_learns_the_same(own, tmp_path, capsys):
    run_task("text_classification", argv_of(own), None)
    whole = results_of(own)
    fewer = {**own, "output_dir": str(tmp_path / "fewer"), "trim_vocabulary": True}
    run_task("text_classification", argv_of({**fewer, "export_sparsity": 0.5}), None)
    assert "tokens kept" in capsys.readouterr().out
    (before,), (after,) = whole["runs"], results_of(fewer)["runs"]
    assert [p["metrics"] for p in after["curve"]] == [p["metrics"] for p in before["curve"]]
    places = list(Path(fewer["output_dir"]).rglob("config.json"))
    exported = [place.parent for place in places if "checkpoint" not in str(place)]
    assert len(exported) == 2, "the trained and the small model"
    for folder in exported:
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert model.config.vocab_size == len(tokenizer) == len(SPECIAL | WORDS)
        assert not set(tokenizer(TEXTS).input_ids[0]) & set(tokenizer.all_special_ids)


def test_a_language_model_keeps_the_tokens_of_its_text(own, model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(model)
    folder = tmp_path / "llama"
    tokenizer.save_pretrained(folder)
    sizes = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 64}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    asked = {
        **own,
        "model_name_or_path": str(folder),
        "block_size": 8,
        "trim_vocabulary": True,
        "max_steps": 1,
        "sparsities": [0],
    }
    del asked["max_seq_length"]
    run_task("language_modelling", argv_of(asked), None)
    trained = AutoModelForCausalLM.from_pretrained(Path(asked["output_dir"]) / "seed-42")
    assert trained.config.vocab_size == trained.lm_head.out_features < len(tokenizer)


def test_an_untrained_model_is_refused(own, model):
    changes = {"model_name_or_path": "new:llama", "tokenizer_name": str(model), "block_size": 8}
    sizes = "hidden_size=32,num_hidden_layers=1,num_attention_heads=4"
    del own["max_seq_length"]
    asked = {**own, **changes, "config_overrides": sizes, "trim_vocabulary": True}
    with pytest.raises(UsageError, match="is for a pretrained model"):
        run_task("language_modelling", argv_of(asked), None)


def test_images_are_refused(own, tmp_path):
    torch.manual_seed(0)
    config = ViTConfig(**SIZES, image_size=8, patch_size=4)
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(tmp_path / "vit")
    changes = {"model_name_or_path": str(tmp_path / "vit"), "dataset_name": "digits"}
    del own["max_seq_length"], own["train_file"]
    with pytest.raises(UsageError, match="is for tasks of text"):
        run_task("image_classification", argv_of({**own, **changes, "trim_vocabulary": True}), None)
