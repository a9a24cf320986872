"""Quality of sentence embeddings whose encoder lost heads and neurons, without training."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hf_td.analysis.tables import markdown_table
from hf_td.pruning import prune_model
from hf_td.tasks.glue.glue_metric import pearson, spearmanr

_BATCH = 32
# Sparsities that each way of pruning is measured at.
SPARSITIES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Pairs:
    """Pairs of sentences with the similarity that people gave them.

    Attributes:
        first: one sentence of each pair.
        second: the other one.
        scores: of people.
    """

    first: Sequence[str]
    second: Sequence[str]
    scores: Sequence[float]


# Ways to prune: a name, arguments of `prune_model`, and True where they take a calibration. An
# encoder has no loss, so importance by gradients is none of them.
WAYS: dict[str, tuple[dict[str, Any], bool]] = {
    "magnitude": ({"importance": "magnitude"}, False),
    "activation": ({"importance": "activation"}, True),
    "activation, mean": ({"importance": "activation", "compensate": "mean"}, True),
    "activation, least squares": (
        {"importance": "activation", "compensate": "least_squares"},
        True,
    ),
}


def load(folder: str) -> Any:
    """Load a SentenceTransformer on the CPU."""
    library: Any = importlib.import_module("sentence_transformers")
    return library.SentenceTransformer(folder, device="cpu").eval()


def measure_embeddings(
    folder: str, texts: Sequence[str], pairs: Pairs
) -> Iterator[dict[str, float | int | str]]:
    """Yield a JSON object for the whole model, and for each way and sparsity.

    Args:
        folder: of a SentenceTransformer.
        texts: of a training split, to calibrate on.
        pairs: of another split, to measure on.
    """
    whole = load(folder)
    yield {"way": "whole", "sparsity": 0.0, "parameters_removed": 0.0, **agreement(whole, pairs)}
    for name, (how, calibrated) in WAYS.items():
        for sparsity in SPARSITIES:
            model = load(folder)
            batches = batches_of(model, texts) if calibrated else None
            encoder = model[0].auto_model
            report = prune_model(encoder, sparsity, level="unit", calibration=batches, **how)
            removed = report.share_of_parameters
            found = agreement(model, pairs)
            yield {"way": name, "sparsity": sparsity, "parameters_removed": removed, **found}


def batches_of(model: Any, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Return the inputs of the encoder for texts."""
    parts = [texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH)]
    return [
        dict(model.tokenizer(list(part), padding=True, truncation=True, return_tensors="pt"))
        for part in parts
    ]


def agreement(model: Any, pairs: Pairs) -> dict[str, float]:
    """Return the correlations, in [-1, 1], of cosines with the scores of people."""
    sides = (pairs.first, pairs.second)
    first, second = (
        model.encode(list(side), convert_to_tensor=True, batch_size=_BATCH) for side in sides
    )
    cosines = torch.cosine_similarity(first, second).numpy()
    return {
        "pearson": pearson(cosines, pairs.scores),
        "spearman": spearmanr(cosines, pairs.scores),
    }


def embeddings_table(records: Iterable[Mapping[str, Any]]) -> str:
    """Return the table of the last line of each way and sparsity, in Markdown."""
    last = {(r["way"], r["sparsity"]): r for r in records}
    heads = ("heads and neurons removed", "by", "all parameters removed", "Pearson", "Spearman")
    rows = (
        (
            f"{r['sparsity']:.0%}",
            r["way"] if r["sparsity"] else "",
            f"{r['parameters_removed']:.1%}",
            f"{r['pearson']:.3f}",
            f"{r['spearman']:.3f}",
        )
        for r in sorted(last.values(), key=lambda r: r["sparsity"])
    )
    return markdown_table(heads, rows, left_columns=2)
