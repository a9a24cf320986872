"""A tokenizer of a few words, and tables of reviews."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

WORDS = ["[PAD]", "[UNK]", "good", "bad", "film", "a", "very"]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of seven words."""
    ids = {word: i for i, word in enumerate(WORDS)}
    model: Any = Tokenizer(WordLevel(ids, unk_token="[UNK]"))
    model.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=model, pad_token="[PAD]", unk_token="[UNK]")


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes a table of texts and labels, and returns its path."""

    def write(
        labels: Sequence[Any], texts: Sequence[Any] | None = None, name: str = "t.csv"
    ) -> str:
        texts = (
            [f"a good film {'very ' * i}" for i in range(len(labels))] if texts is None else texts
        )
        lines = [f"{text},{label}" for text, label in zip(texts, labels, strict=True)]
        path = tmp_path / name
        path.write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
        return str(path)

    return write
