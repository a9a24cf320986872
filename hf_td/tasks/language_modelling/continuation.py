"""Lets a language model continue a text, so that a reader sees what pruning does to it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hf_td.anatomy import evaluating

# The tokens of the beginning, and those that the model writes.
PROMPT, WRITTEN = 32, 48


class Continuation(NamedTuple):
    """A beginning, and what a model made of it."""

    prompt: str
    text: str


@torch.no_grad()
def continue_text(model: Any, tokenizer: Any, tokens: Tensor) -> Continuation:
    """Let a model continue a text greedily: equal models write equal texts.

    Args:
        model: language model; its mode is restored.
        tokenizer: tokenizer of the model.
        tokens: a text, `(length,)`, at least 2. Its first half, or `PROMPT` tokens of it, is the
            beginning. The model writes at most `WRITTEN` tokens, within this length.
    """
    device = next(model.parameters()).device
    prompt = tokens[None, : min(PROMPT, len(tokens) // 2)].to(device)
    written = min(WRITTEN, len(tokens) - prompt.shape[1])
    with evaluating(model):
        rows = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=written,
            min_new_tokens=written,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )
    start, end = (tokenizer.decode(part) for part in (prompt[0], rows[0, prompt.shape[1] :]))
    return Continuation(start, end)
