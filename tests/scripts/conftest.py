"""Fixtures: a tiny random model for the built-in task, and arguments of a run of a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from hf_td.tasks.glue.acceptability import generate
from tests.tiny import SIZES


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Return the folder of a tiny random BERT with the words of the built-in task."""
    folder = tmp_path_factory.mktemp("tiny-bert")
    words = {w for row in generate(train_size=200)["train"]["sentence"] for w in _split(row)}
    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    BertForSequenceClassification(
        BertConfig(vocab_size=len(vocabulary), **SIZES, max_position_embeddings=64)
    ).save_pretrained(folder)
    return folder


def _split(sentence: str) -> list[str]:
    return [word for word, _ in pre_tokenizers.Whitespace().pre_tokenize_str(sentence)]


@pytest.fixture
def options(model, tmp_path) -> dict[str, Any]:
    """Return arguments of a run of a second."""
    return {
        "model_name_or_path": str(model),
        "task_name": "acceptability",
        "output_dir": str(tmp_path / "out"),
        "max_train_samples": 64,
        "max_eval_samples": 32,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 16,
        "sparsities": [0, 0.5, 0.9],
        "max_seq_length": 32,
        "disable_tqdm": True,
        "use_cpu": True,
    }
