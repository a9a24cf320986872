"""The correlations of sentence embeddings after pruning, and their table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lab.benchmarks import embeddings

from tests.tables import unpadded
from tests.tiny import tiny_model, tiny_tokenizer


class Sentences(torch.nn.Sequential):
    """A stand-in for a SentenceTransformer: the mean of the hidden states of an encoder."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Module())
        encoder: Any = tiny_model("bert")
        self[0].auto_model = encoder.bert
        self.tokenizer = tiny_tokenizer()

    def encode(self, texts: list[str], **how: Any) -> torch.Tensor:
        numbers = torch.tensor([[3 + len(text), 5, 9] for text in texts])
        with torch.no_grad():
            return self[0].auto_model(numbers).last_hidden_state.mean(1)  # pyright: ignore


def test_every_way_and_sparsity_is_measured_on_a_fresh_model(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(embeddings, "load", lambda _: Sentences())
    texts = ["a", "b c", "d", "e f g"] * 10
    pairs = embeddings.Pairs(texts[:8], ["x" * n for n in range(1, 9)], [1, 2, 3, 4, 4, 3, 2, 1])
    lines = list(embeddings.measure_embeddings("", texts, pairs))
    assert len(lines) == 1 + len(embeddings.WAYS) * len(embeddings.SPARSITIES)
    by_way = {(line["way"], line["sparsity"]): line for line in lines}
    mean, least = (by_way[f"activation, {how}", 0.5] for how in ("mean", "least squares"))
    assert mean["parameters_removed"] == least["parameters_removed"]
    assert float(mean["parameters_removed"]) > 0
    assert mean["pearson"] != pytest.approx(least["pearson"])
    for line in lines:
        assert -1 <= float(line["spearman"]) <= 1
    table = unpadded(embeddings.embeddings_table([*lines, {**lines[0], "pearson": 0.5}]))
    assert table.splitlines()[2].startswith("| 0% | | 0.0% | 0.500 |")
    assert len(table.splitlines()) == 2 + len(lines)
