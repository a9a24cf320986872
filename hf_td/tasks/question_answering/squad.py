"""Exact match and F1 of answers, as defined by SQuAD (Rajpurkar et al., arXiv 1606.05250)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def squad_scores(answers: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return the means over questions, in percent.

    Args:
        answers: an answer for each question; empty for "no answer".
        references: the true answers of each question; the best match counts. Empty if the question
            has no answer.
    """
    exact = [_best(_is_equal, *pair) for pair in zip(answers, references, strict=True)]
    f1 = [_best(word_f1, *pair) for pair in zip(answers, references, strict=True)]
    return {"exact_match": 100 * sum(exact) / len(exact), "f1": 100 * sum(f1) / len(f1)}


def words_of(text: str) -> list[str]:
    """Return the words in lower case, without punctuation and articles.

    >>> words_of("The U.S. Army's  base")
    ['us', 'armys', 'base']
    """
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def word_f1(answer: str, reference: str) -> float:
    """Return F1 of the words that two answers share; if one has no words, 1.0 if both have none.

    >>> word_f1("the blue whale", "a whale")
    0.6666666666666666
    """
    ours, theirs = words_of(answer), words_of(reference)
    if not ours or not theirs:
        return float(ours == theirs)
    shared = (Counter(ours) & Counter(theirs)).total()
    return 2 * shared / (len(ours) + len(theirs))


def _is_equal(answer: str, reference: str) -> float:
    return float(words_of(answer) == words_of(reference))


def _best(score: Callable[[str, str], float], answer: str, references: Sequence[str]) -> float:
    return max(score(answer, reference) for reference in references or [""])
