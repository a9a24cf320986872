"""Samples text from a language model, for models whose training text is not available."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

# Seed of each split, and its number of tokens in relation to the training split.
_SPLITS = {"train": (0, 1.0), "validation": (1, 0.125), "test": (2, 0.125)}
_BATCH = 64
_LONGEST = 512


def write_splits(
    model: Any, tokenizer: Any, tokens: int, names: Mapping[str, str]
) -> dict[str, Iterable[str]]:
    """Sample the text of each split with a fixed seed of its own.

    Args:
        model: language model to sample from; set to eval mode.
        tokenizer: tokenizer of the model.
        tokens: minimum number of tokens in the training split; positive.
        names: maps each wanted split to `train`, `validation` or `test`.

    Raises:
        ValueError: there is no such split, or `tokens` is not positive.
    """
    if tokens < 1:
        raise ValueError(f"self_tokens must be at least 1, got {tokens}.")
    unknown = sorted(set(names.values()) - set(_SPLITS))
    if unknown:
        raise ValueError(f"text of the model has no split {unknown}. It has {list(_SPLITS)}.")
    model.eval()
    return {
        split: write(model, tokenizer, round(tokens * _SPLITS[name][1]), seed=_SPLITS[name][0])
        for split, name in names.items()
    }


@torch.no_grad()
def write(model: Any, tokenizer: Any, tokens: int, *, seed: int) -> list[str]:
    """Sample texts that begin at the start token, until they have enough tokens.

    Args:
        model: language model in eval mode.
        tokenizer: tokenizer of the model.
        tokens: minimum number of tokens.
        seed: seed of the draws; the global random state is restored.

    Raises:
        ValueError: the tokenizer has neither a start nor an end token, or the model's texts are
            empty.
    """
    settings = _settings(model, tokenizer)
    start = settings["pad_token_id"]
    texts, written = [], 0
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        while written < tokens:
            rows = model.generate(torch.full((_BATCH, 1), start), **settings)[:, 1:]
            count = int((rows != start).sum())
            if not count:
                raise ValueError("the model writes only empty texts. Give another --dataset_name.")
            written += count
            texts += tokenizer.batch_decode(rows, skip_special_tokens=True)
    return texts


def _settings(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Return arguments of `generate` that sample from the full distribution to the text's end."""
    known = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    ends = [token for token in known if token is not None]
    if not ends:
        raise ValueError(
            "the tokenizer has no token that begins or ends a text (bos, eos). Texts start at one. "
            "Give another model or another --dataset_name."
        )
    return {
        "attention_mask": torch.ones(_BATCH, 1, dtype=torch.long),
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "max_length": min(_LONGEST, getattr(model.config, "max_position_embeddings", _LONGEST)),
        "eos_token_id": ends,
        "pad_token_id": ends[0],
    }
