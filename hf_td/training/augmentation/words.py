"""Reads from a vocabulary which tokens are words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

_CONTINUES = "##"  # WordPiece marks the tokens inside a word
_BEGINS = ("Ġ", "▁")  # byte-level BPE and SentencePiece mark those at its start


@dataclass(frozen=True)
class Words:
    """The role of each token of a vocabulary; boolean arrays `(vocabulary,)`.

    Attributes:
        special: tokens that are no part of a text, such as separators.
        begins: tokens that begin a word.
        whole: tokens of letters and digits that can be a word alone.
    """

    special: np.ndarray
    begins: np.ndarray
    whole: np.ndarray


def read_words(tokenizer: Any) -> Words:
    """Read the roles of the tokens of a tokenizer of `transformers`.

    The marks of WordPiece, of byte-level BPE and of SentencePiece are known. Without any mark each
    token is a word.
    """
    size = max(tokenizer.get_vocab().values()) + 1
    tokens = [token or "" for token in tokenizer.convert_ids_to_tokens(range(size))]
    special = np.zeros(size, dtype=bool)
    added = [token for token in tokenizer.get_added_vocab().values() if token < size]
    special[[*tokenizer.all_special_ids, *added]] = True
    if any(token.startswith(_CONTINUES) for token in tokens):
        begins, mark = [not token.startswith(_CONTINUES) for token in tokens], ""
    else:
        mark = next((m for m in _BEGINS if any(t.startswith(m) for t in tokens)), "")
        begins = [token.startswith(mark) for token in tokens]
    letters = np.array([token.removeprefix(mark).isalnum() for token in tokens])
    starts, known = np.array(begins), ~special
    if tokenizer.unk_token_id is not None:
        special[tokenizer.unk_token_id] = False  # it stands for a word of the text
    return Words(special=special, begins=starts, whole=starts & letters & known)
