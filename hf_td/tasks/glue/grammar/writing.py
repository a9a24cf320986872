"""Builds sentences from words."""

import random
from collections.abc import Callable

Pair = tuple[str, str]
"""An acceptable and an unacceptable sentence that differ minimally."""

Template = Callable[[random.Random], Pair]
"""A function that draws one pair."""


def pair(frame: str, good: str, bad: str) -> Pair:
    """Fill the mark `_` of a frame with the acceptable words, and with the unacceptable ones."""
    return sentence(frame.replace("_", good)), sentence(frame.replace("_", bad))


def sentence(words: str) -> str:
    """Return a sentence: single spaces, a capital, a full stop unless it is a question."""
    text = " ".join(words.split()).replace(" ?", "?").replace(" ,", ",")
    return text[0].upper() + text[1:] + ("" if text.endswith("?") else ".")


def with_article(noun: str) -> str:
    """Put `a` or `an` before a noun phrase."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def two(rng: random.Random, words: tuple) -> tuple:
    """Draw two different words."""
    first, second = rng.sample(words, 2)
    return first, second
