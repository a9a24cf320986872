"""Answers from logits and their scores, against hand counts and slow loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_td.tasks.question_answering.answers import Choice, Found, answer_texts, best_span, choose
from hf_td.tasks.question_answering.squad import squad_scores, word_f1
from hf_td.tasks.question_answering.task import starts_and_ends


def test_scores_are_those_of_hand_counts():
    answers = ["The  New York!", "a tall man", "", "blue"]
    references = [["new york"], ["the man", "men"], [], ["red", "dark blue"]]
    # f1: 1; "tall man" has 1 of 2 words and "man" 1 of 1, so 2/3; right to say none; 2/3
    expected = {"exact_match": 50.0, "f1": 100 * (1 + 2 / 3 + 1 + 2 / 3) / 4}
    assert squad_scores(answers, references) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("red red blue", "red blue blue", 2 / 3),
        ("red", "blue", 0),
        ("", "blue", 0),
        ("the", "", 1),
        ("U.S.A.", "usa", 1),
        ("panther", "pan", 0),
    ],
)
def test_f1_counts_shared_words(answer, reference, expected):
    assert word_f1(answer, reference) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("n_best", "max_tokens"), [(30, 30), (30, 3), (4, 30), (1, 1)])
def test_the_best_span_is_that_of_a_slow_loop(seed, n_best, max_tokens):
    starts, ends = np.random.default_rng(seed).normal(size=(2, 12))
    starts[:3] = ends[:3] = -np.inf  # the question
    firsts = sorted(range(12), key=lambda i: -starts[i])[:n_best]
    lasts = sorted(range(12), key=lambda i: -ends[i])[:n_best]
    spans = [(i, j) for i in firsts for j in lasts if i <= j < i + max_tokens]
    best = max((starts[i] + ends[j] for i, j in spans), default=-np.inf)
    first, last, score = best_span(starts, ends, Choice(n_best=n_best, max_tokens=max_tokens))
    assert score == pytest.approx(best)
    assert (first, last) in spans or best == -np.inf


def test_without_a_possible_span_the_answer_is_empty():
    window = {"row": 0, "null": 0, "token_starts": [-1, -1, 0, 4], "token_ends": [-1, -1, 3, 8]}
    logits = np.array([[9, 9], [9, 9], [1, 5], [5, 0]])
    assert answer_texts([logits], [window], ["One word"], Choice(n_best=1)) == [""]
    assert answer_texts([logits], [window], ["One word"], Choice()) == ["One"]


def test_padding_and_the_question_never_answer():
    window = {"row": 0, "null": 0, "token_starts": [-1, -1, 0, 4], "token_ends": [-1, -1, 3, 8]}
    logits = np.array([[0, 0], [9, 9], [1, 1], [0, 2], [9, 9], [-100, -100]])
    assert answer_texts([logits], [window], ["One word"], Choice()) == ["One word"]


def test_the_best_window_answers():
    found = [Found("low", 1.0, 8.0), Found("high", 3.0, 2.5), Found("", -np.inf, 7.0)]
    assert choose(found, Choice()) == "high"
    # 2.5, the lowest score of no answer, is .5 below the best answer's.
    assert choose(found, Choice(null_threshold=0.0)) == "high"
    assert choose(found, Choice(null_threshold=-0.5)) == "high"
    assert choose(found, Choice(null_threshold=-0.6)) == ""


def test_only_the_first_two_outputs_are_kept():
    starts, ends, states = torch.ones(2, 3), torch.zeros(2, 3), torch.zeros(2, 3, 4)
    assert starts_and_ends((starts, ends, states), None).tolist() == [[[1, 0]] * 3] * 2
