"""Selects answers by the logits of windows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Settings for selecting an answer.

    Attributes:
        n_best: number of best starts, and of best ends, of a window to consider.
        max_tokens: maximum length of an answer.
        null_threshold: the answer is empty if the score of no answer exceeds the best answer's
            score by more than this; None if every question has an answer.
    """

    n_best: int = 20
    max_tokens: int = 30
    null_threshold: float | None = None


@dataclass(frozen=True)
class Found:
    """The best answer in one window.

    Attributes:
        text: the answer.
        score: logit of the start plus logit of the end; -inf if there is no answer.
        null: score of no answer.
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
    """Return the answer to each question; empty for "no answer".

    Args:
        logits: `(length, 2)` for each window, of starts and of ends; logits beyond the tokens of
            the window are ignored.
        windows: rows with the columns `windows.PLACE`, in the order of `logits`.
        contexts: context of each question.
        choice: settings for selecting an answer.
    """
    found: list[list[Found]] = [[] for _ in contexts]
    for scores, window in zip(logits, windows, strict=True):
        row = int(window["row"])
        found[row].append(read_window(scores, window, contexts[row], choice))
    return [choose(windows, choice) for windows in found]


def choose(found: Sequence[Found], choice: Choice) -> str:
    """Return the best answer of a question's windows.

    The score of no answer is the lowest of all windows: windows without the answer score it high.
    """
    best = max(found, key=lambda window: window.score)
    null = min(window.null for window in found)
    if choice.null_threshold is not None and null - best.score > choice.null_threshold:
        return ""
    return best.text


def read_window(
    logits: np.ndarray, window: Mapping[str, Any], context: str, choice: Choice
) -> Found:
    """Return the best answer in one window; arguments as in `answer_texts`."""
    first, last = (np.asarray(window[name]) for name in ("token_starts", "token_ends"))
    starts, ends = np.where(first[:, None] >= 0, logits[: len(first)], -np.inf).T
    start, end, score = best_span(starts, ends, choice)
    text = context[first[start] : last[end]].strip() if score > -np.inf else ""
    return Found(text, score, float(logits[int(window["null"])].sum()))


def best_span(starts: np.ndarray, ends: np.ndarray, choice: Choice) -> tuple[int, int, float]:
    """Return the first and the last token of the best span, and its score (-inf if none exists).

    Args:
        starts: logits `(length,)` of starts, -inf where no answer can start.
        ends: logits `(length,)` of ends, -inf where no answer can end.
        choice: settings for selecting an answer.
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
