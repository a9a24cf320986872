"""A model that gives one answer for every row is noticed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hf_td.tasks.experiment.one_answer import gives_one_answer

CLASSES = np.array([0, 1, 1, 0])
SCORES = np.array([0.5, 2.0, 3.5, 5.0], dtype=np.float32)
SEVERAL = np.array([[1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 0, 0]], dtype=np.float32)
RISING = np.arange(4.0)[:, None]


@pytest.mark.parametrize(
    ("predictions", "labels", "expected"),
    [
        (np.array([[2.0, 1.0]] * 4) + RISING, CLASSES, True),
        (np.array([[2.0, 1.0], [0.0, 1.0]] * 2), CLASSES, False),
        ((np.array([[2.0, 1.0]] * 4), "hidden states"), CLASSES, True),
        (2.5 + 1e-4 * RISING, SCORES, True),
        (2.5 + 0.1 * RISING, SCORES, False),
        (np.full(4, 2.5), SCORES, True),
        (np.full((4, 3), -1.0) - RISING, SEVERAL, True),
        (SEVERAL - 0.5, SEVERAL, False),
        (np.array([[2.0, 1.0]] * 4), np.ones(4, dtype=int), None),  # all labels are one class
        (np.zeros((4, 7, 2)), np.zeros((4, 7)), None),  # tokens
        ("text", CLASSES, None),
    ],
)
def test_answers(predictions: Any, labels: Any, expected: bool | None):
    assert gives_one_answer(predictions, labels) is expected
