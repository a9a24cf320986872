"""Exact match and F1 of question answering, from logits over windows."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from hf_td.tasks.experiment.methods import METHODS
from hf_td.tasks.experiment.parsing import parse_arguments
from hf_td.tasks.models import find_model
from hf_td.tasks.question_answering.questions import QuestionAnsweringArguments
from hf_td.tasks.question_answering.task import question_answering_task
from tests.programs import argv_of
from tests.scripts.question_answering.questions import (
    metrics_of,
    places_of,
    rows_of,
    task_of,
    true_logits,
)


@pytest.mark.parametrize("length", [20, 24, 40])
def test_sure_logits_score_100_whatever_the_windows(options, length):
    task = task_of({**options, "max_seq_length": length})
    rows = places_of(task)["row"]
    assert set(rows) == set(range(16))
    assert len(rows) > 16
    assert metrics_of(task, true_logits(task)) == {"exact_match": 100, "f1": 100}
    # "New" is half of the two words; all other answers are one word.
    short = metrics_of(task, _short(task))
    double = sum(row["answers"]["text"][0] == "New York" for row in rows_of(options))
    assert short["exact_match"] == pytest.approx(100 * (16 - double) / 16)
    assert short["f1"] == pytest.approx(100 * (16 - double + double * 2 / 3) / 16)


def _short(task: Any) -> np.ndarray:
    """Return logits that select the first word as the answer."""
    logits = true_logits(task)
    logits[..., 1] = logits[..., 0]
    return logits


def test_evaluation_agrees_with_a_window_at_a_time_in_their_order(options):
    """Check the row order of evaluation while training is grouped by length."""
    options |= {"per_device_eval_batch_size": 3, "max_seq_length": 40}
    arguments = parse_arguments(argv_of(options), QuestionAnsweringArguments)
    assert arguments.training.train_sampling_strategy == "group_by_length"
    arguments.training.dataloader_pin_memory = False
    task = question_answering_task(arguments, find_model(arguments.model))
    model: Any = task.make_model().eval()
    trainer = METHODS["none"].trainer_of(task.trainer_family)(
        model=model,
        args=arguments.training,
        eval_dataset=task.eval_data,
        processing_class=task.processor,
        data_collator=task.collator,
        compute_metrics=task.compute_metrics,
        preprocess_logits_for_metrics=task.reduce_logits,
    )
    alone = []
    for row in task.eval_data:
        inputs = {name: torch.tensor([values]) for name, values in row.items()}
        with torch.no_grad():
            output = model(**inputs)
        alone.append(torch.stack([output.start_logits[0], output.end_logits[0]], -1))
    done = trainer.predict(task.eval_data)
    for expected, logits in zip(alone, done.predictions, strict=True):
        assert_close(torch.tensor(logits[: len(expected)]), expected)
    padded = torch.nn.utils.rnn.pad_sequence(alone, batch_first=True).numpy()
    expected = metrics_of(task, padded)
    found = trainer.evaluate()
    assert {name: found[f"eval_{name}"] for name in expected} == pytest.approx(expected)


def test_questions_without_an_answer_are_learnt_and_measured(options, negative):
    task = task_of({**options, "dataset_name": negative, "version_2_with_negative": True})
    rows = [json.loads(x) for x in (negative / "validation.jsonl").read_text().splitlines()]
    for window, place in zip(task.eval_data, places_of(task), strict=True):
        if not rows[place["row"]]["answers"]["text"]:
            assert window["start_positions"] == window["end_positions"] == place["null"]
    logits = true_logits(task)
    assert metrics_of(task, logits) == {"exact_match": 100, "f1": 100}
    logits[:, 0] = 20  # every window prefers no answer
    assert metrics_of(task, logits)["f1"] == 50
    generous = {"null_score_diff_threshold": 100, "version_2_with_negative": True}
    task = task_of({**options, "dataset_name": negative, **generous})
    assert metrics_of(task, true_logits(task))["f1"] == 50  # the threshold is high: never empty
