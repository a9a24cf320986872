"""Text that a language model writes itself, for models whose training text is not at hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

# The seed of each split, and its share of the tokens.
_SPLITS = {"train": (0, 1.0), "validation": (1, 0.125), "test": (2, 0.125)}
_BATCH = 64
_LONGEST = 512


def write_splits(
    model: Any, tokenizer: Any, tokens: int, names: Mapping[str, str]
) -> dict[str, Iterable[str]]:
    """Sample the text of each split, with a seed of its own, the same at every call.

    Args:
        model: that writes.
        tokenizer: of the model.
        tokens: how many the training split has, at least; positive.
        names: of each split that is wanted, to which of `train`, `validation` and `test` it is.

    Raises:
        ValueError: there is no such split, or `tokens` is not positive.
    """
    if tokens < 1:
        raise ValueError(f"self_tokens must be at least 1, got {tokens}")
    unknown = sorted(set(names.values()) - set(_SPLITS))
    if unknown:
        raise ValueError(f"text of the model has the splits {list(_SPLITS)}, no {unknown}")
    model.eval()
    return {
        split: write(model, tokenizer, round(tokens * _SPLITS[name][1]), seed=_SPLITS[name][0])
        for split, name in names.items()
    }


@torch.no_grad()
def write(model: Any, tokenizer: Any, tokens: int, *, seed: int) -> list[str]:
    """Sample texts from the start token on, one for each row, until there are enough tokens.

    Args:
        model: in eval mode.
        tokenizer: of the model.
        tokens: how many, at least.
        seed: of the draws; the global random state is left as it was.

    Raises:
        ValueError: the tokenizer has no token that begins or ends a text, or the model writes none.
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
                raise ValueError("the model writes nothing")
            written += count
            texts += tokenizer.batch_decode(rows, skip_special_tokens=True)
    return texts


def _settings(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Of `generate`: sample from the whole distribution until the text ends or another begins."""
    known = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    ends = [token for token in known if token is not None]
    if not ends:
        raise ValueError("the tokenizer has no token that begins or ends a text (bos, eos)")
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
