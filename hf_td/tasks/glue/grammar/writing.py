"""Small helpers that turn chosen words into sentences."""

import random
from collections.abc import Callable

Pair = tuple[str, str]
"""An acceptable sentence and an unacceptable one that differ as little as they can."""

Template = Callable[[random.Random], Pair]
"""Draws one pair."""


def pair(frame: str, good: str, bad: str) -> Pair:
    """Fill the mark `_` of a frame with the right words and with the wrong ones."""
    return sentence(frame.replace("_", good)), sentence(frame.replace("_", bad))


def sentence(words: str) -> str:
    """Write words as a sentence: single spaces, a capital, a full stop unless it asks."""
    text = " ".join(words.split()).replace(" ?", "?").replace(" ,", ",")
    return text[0].upper() + text[1:] + ("" if text.endswith("?") else ".")


def with_article(noun: str) -> str:
    """Put a or an before a noun phrase."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def two(rng: random.Random, words: tuple) -> tuple:
    """Draw two different entries."""
    first, second = rng.sample(words, 2)
    return first, second
