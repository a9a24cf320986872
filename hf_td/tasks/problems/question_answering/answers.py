"""From the logits of windows to the text of answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How an answer is chosen.

    Attributes:
        n_best: the starts, and the ends, of a window that are considered: the best ones.
        max_tokens: the length of the longest answer.
        null_threshold: a question is said to have no answer where the score of that is higher than
            the best answer's by more than this; None where every question has one.
    """

    n_best: int = 20
    max_tokens: int = 30
    null_threshold: float | None = None


@dataclass(frozen=True)
class Found:
    """What one window says.

    Attributes:
        text: its best answer.
        score: the sum of two logits, of the start and of the end; -inf without an answer.
        null: the same sum for no answer.
    """

    text: str
    score: float
    null: float


def answer_texts(
    logits: Sequence[np.ndarray],
    windows: Iterable[Mapping[str, Any]],
    contexts: Sequence[str],
    choice: Choice,
) -> list[str]:
    """The answer to each question; empty where it is said to have none.

    Args:
        logits: for each window `(length, 2)`, of starts and of ends; what is beyond the tokens of
            the window does not count.
        windows: rows with the columns `PLACE` of the module `windows`, in the same order.
        contexts: of the questions.
        choice: how an answer is chosen.
    """
    found: list[list[Found]] = [[] for _ in contexts]
    for scores, window in zip(logits, windows, strict=True):
        row = int(window["row"])
        found[row].append(read_window(scores, window, contexts[row], choice))
    return [choose(said, choice) for said in found]


def choose(found: Sequence[Found], choice: Choice) -> str:
    """The best answer of the windows of a question.

    That there is none is said by the window that says so least: an answer that another window holds
    is no reason to doubt it.
    """
    best = max(found, key=lambda window: window.score)
    null = min(window.null for window in found)
    if choice.null_threshold is not None and null - best.score > choice.null_threshold:
        return ""
    return best.text


def read_window(
    logits: np.ndarray, window: Mapping[str, Any], context: str, choice: Choice
) -> Found:
    """What one window says; arguments as those of `answer_texts`."""
    first, last = (np.asarray(window[name]) for name in ("token_starts", "token_ends"))
    starts, ends = np.where(first[:, None] >= 0, logits[: len(first)], -np.inf).T
    start, end, score = best_span(starts, ends, choice)
    text = context[first[start] : last[end]].strip() if score > -np.inf else ""
    return Found(text, score, float(logits[int(window["null"])].sum()))


def best_span(starts: np.ndarray, ends: np.ndarray, choice: Choice) -> tuple[int, int, float]:
    """The first and the last token of the best span, and its score: -inf where there is none.

    Args:
        starts: logits `(length,)`, -inf where no answer can start.
        ends: the same of the ends.
        choice: how an answer is chosen.
    """
    firsts, lasts = (np.argsort(-x, kind="stable")[: choice.n_best] for x in (starts, ends))
    tokens = lasts - firsts[:, None] + 1
    scores = np.where(
        (tokens >= 1) & (tokens <= choice.max_tokens),
        starts[firsts][:, None] + ends[lasts],
        -np.inf,
    )
    i, j = np.unravel_index(scores.argmax(), scores.shape)
    return int(firsts[i]), int(lasts[j]), float(scores[i, j])
