"""Fixtures: a tiny random model, folders of questions, and arguments of a short run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from tests.programs import short_run
from tests.scripts.question_answering.questions import FILLING, question, write
from tests.tiny import SIZES

_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Return the folder of a tiny random BERT with the words of the questions."""
    folder = tmp_path_factory.mktemp("tiny-bert")
    splitter: Any = pre_tokenizers.Whitespace()
    texts = [text for i in range(25) for text in (question(i)["question"], question(i)["context"])]
    texts += ["has left", " ".join(FILLING)]
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(text)}
    vocabulary = {word: i for i, word in enumerate([*_SPECIAL, *sorted(words)])}
    tokenizer: Any = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), _SPECIAL, strict=True))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side="left", **names
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(vocabulary), **SIZES, max_position_embeddings=64)
    config.num_labels = 3  # of an earlier task
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    rows = [question(i, filling=i % 3) for i in range(40)]
    return write(tmp_path_factory.mktemp("questions"), train=rows[:24], validation=rows[24:])


@pytest.fixture(scope="module")
def negative(tmp_path_factory) -> Path:
    """Return a folder of questions; every second one has no answer."""
    rows = [question(i, filling=i % 3, answered=i % 2 == 0) for i in range(40)]
    return write(tmp_path_factory.mktemp("negative"), train=rows[:24], validation=rows[24:])


@pytest.fixture
def options(model, folder, tmp_path) -> dict[str, Any]:
    """Return arguments of a run of a second."""
    return {
        "model_name_or_path": model,
        "dataset_name": folder,
        "max_seq_length": 24,
        "doc_stride": 6,
        "max_steps": 2,
        "per_device_train_batch_size": 8,
        **short_run(tmp_path / "out"),
    }
