"""`trim_vocabulary`, and what it reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice, tee
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_td.vocabulary.embeddings import embedding_rows, ids_that_stay, keep_rows
from hf_td.vocabulary.ids import named_ids
from hf_td.vocabulary.tokenizer import (
    count_tokens,
    encoded,
    needed_ids,
    spec_of,
    trimmed_tokenizer,
)

# Texts that are encoded by both tokenizers, before the model is touched.
_COMPARED = 1000


@dataclass(frozen=True)
class TrimReport:
    """What `trim_vocabulary` took out.

    Attributes:
        kept: the old ids of the tokens that are left; their new ids are their places here.
        tokens_before: number of tokens before, as rows of the input embeddings.
        coverage: the fraction of the tokens of the texts that are left, in [0, 1]; None without
            texts.
        bytes_before: size of all parameters before.
        bytes_after: size of all parameters now.
    """

    kept: tuple[int, ...]
    tokens_before: int
    coverage: float | None
    bytes_before: int
    bytes_after: int

    def __str__(self) -> str:
        covered = "" if self.coverage is None else f"; {self.coverage:.2%} of the texts' tokens"
        return (
            f"{len(self.kept):,} of {self.tokens_before:,} tokens kept{covered}; "
            f"{self.bytes_before / 1e6:,.1f} MB before, {self.bytes_after / 1e6:,.1f} MB now"
        )


def trim_vocabulary(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str] | None = None,
    keep: Iterable[str | int] = (),
    *,
    min_count: int = 1,
) -> tuple[Any, TrimReport]:
    """Take the tokens that no text uses out of a model, in place, and return its new tokenizer.

    A text whose tokens are all kept is split as before, and the model computes the same for it.
    Any other text is split into smaller tokens: single characters, bytes, special and added tokens
    always stay, as does whatever a kept token is merged from.

    Args:
        model: a model whose tokens are embedded once; its weights may be patched or pruned.
        tokenizer: its tokenizer, with a tokenizer.json.
        texts: the texts whose tokens stay, such as the training set; read once.
        keep: further tokens, as strings or ids.
        min_count: how often a token has to occur in the texts, at least 1.

    Returns:
        The tokenizer that belongs to the smaller model, and a report.

    Raises:
        ValueError: there are neither texts nor tokens to keep, the tokenizer is of a type that
            cannot be trimmed, it has more tokens than the model, or the model has no single
            embedding of tokens. The model is unchanged then.
    """
    if min_count < 1:
        raise ValueError(f"min_count has to be at least 1, got {min_count}")
    if isinstance(texts, str):
        raise ValueError("texts has to be a list of texts, got one text: give [text]")
    size, spec = embedding_rows(model), spec_of(tokenizer)
    _check_size(tokenizer, size)
    counted, compared = tee(texts or ())
    probes = list(islice(compared, _COMPARED))
    del compared  # so that `tee` holds no text that has been counted
    counts = count_tokens(tokenizer, counted)
    wanted = {i for i, count in counts.items() if count >= min_count} | set(_ids(tokenizer, keep))
    _check_wanted(wanted, counts, min_count)
    always = named_ids(model, size) | set(ids_that_stay(model))
    kept = sorted(needed_ids(spec, wanted | always))
    new_ids = {old: new for new, old in enumerate(kept)}
    smaller = trimmed_tokenizer(tokenizer, new_ids)
    _check_texts(tokenizer, smaller, probes, new_ids)
    before = _bytes(model)
    keep_rows(model, kept, new_ids)
    total = sum(counts.values())
    coverage = sum(n for i, n in counts.items() if i in new_ids) / total if total else None
    return smaller, TrimReport(tuple(kept), size, coverage, before, _bytes(model))


def _check_wanted(wanted: set[int], counts: Counter[int], min_count: int) -> None:
    """Raise ValueError where no token of the texts would stay, and none is named."""
    if wanted:
        return
    if not counts:
        raise ValueError("expected texts, or tokens to keep: without them every word would go")
    raise ValueError(
        f"no token occurs {min_count} times in the texts, the most common one "
        f"{max(counts.values())} times, so every word would go. Lower min_count (--min-count)"
    )


def _check_size(tokenizer: Any, size: int) -> None:
    highest = max(tokenizer.get_vocab().values())
    if highest >= size:
        raise ValueError(
            f"the tokenizer has a token with the id {highest}, but the model has only {size} rows "
            "of embeddings. Give the tokenizer that belongs to the model"
        )


def _ids(tokenizer: Any, keep: Iterable[str | int]) -> Iterable[int]:
    vocabulary = tokenizer.get_vocab()
    known = set(vocabulary.values())
    for token in keep:
        if isinstance(token, str):
            if token not in vocabulary:
                raise ValueError(f"the tokenizer has no token {token!r} that could be kept")
            yield vocabulary[token]
        elif token not in known:
            raise ValueError(f"the tokenizer has no token with the id {token} that could be kept")
        else:
            yield token


def _check_texts(old: Any, new: Any, texts: list[str], new_ids: dict[int, int]) -> None:
    """Raise RuntimeError unless the new tokenizer splits texts whose tokens are kept as before."""
    for text, before, now in zip(texts, encoded(old, texts), encoded(new, texts), strict=True):
        if all(i in new_ids for i in before) and [new_ids[i] for i in before] != now:
            raise RuntimeError(
                f"the trimmed tokenizer splits {text[:80]!r} in another way than before, though "
                "all its tokens are kept. The model is unchanged"
            )


def _bytes(model: PreTrainedModel) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())
