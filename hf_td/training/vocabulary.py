"""Recognises a tokenizer that was made from nothing."""

from __future__ import annotations

from typing import Any


def knows_words(tokenizer: Any) -> bool:
    """Return False for a vocabulary of special tokens alone.

    From a folder without the files of a tokenizer transformers makes one of the model's type with
    such a vocabulary, and does not warn.
    """
    try:
        special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
        words = tokenizer.get_vocab().keys() - special
    except (AttributeError, NotImplementedError):
        return True  # a tokenizer of its own kind, which lists no words
    return any(sign.isalnum() for word in words for sign in word)
