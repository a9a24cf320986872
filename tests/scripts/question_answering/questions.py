"""Generated questions, and helpers for their tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from transformers import EvalPrediction

from hf_td.tasks.experiment.parsing import parse_arguments
from hf_td.tasks.models import find_model
from hf_td.tasks.question_answering.questions import QuestionAnsweringArguments
from hf_td.tasks.question_answering.task import question_answering_task
from tests.programs import argv_of, load_script

run_question_answering = load_script("run_question_answering")

_NAMES = ["Anna", "Ben", "Cem", "Dora", "Eve"]
_PLACES = ["Bonn", "New York", "Rome", "Oslo", "Lima"]
FILLING = "They met early that morning and then it rained all day ".split()


def question(number: int, *, filling: int = 0, answered: bool = True) -> dict[str, Any]:
    """Return a row with filling around the answer, or without an answer."""
    name, place = _NAMES[number % 5], _PLACES[number // 5 % 5]
    before = "".join(f"{word} " for word in (FILLING * filling)[number % 7 :])
    context = f"{before}{name} {'lives in' if answered else 'has left'} {place} ." + before
    start = context.index(place)
    answers = {"text": [place, "Mars"], "answer_start": [start, 0]}
    none: dict[str, list[Any]] = {"text": [], "answer_start": []}
    return {
        "id": str(number),
        "question": f"  Where does {name} live ?",
        "context": context,
        "answers": answers if answered else none,
    }


def write(folder: Path, **splits: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in splits.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def rows_of(options: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the validation split."""
    lines = (Path(options["dataset_name"]) / "validation.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def task_of(options: dict[str, Any]) -> Any:
    arguments = parse_arguments(argv_of(options), QuestionAnsweringArguments)
    return question_answering_task(arguments, find_model(arguments.model))


def places_of(task: Any) -> Any:
    """Return the positions of the windows of the validation split."""
    return task.compute_metrics.keywords["windows"]


def true_logits(task: Any) -> np.ndarray:
    """Return logits with maxima at the positions to learn."""
    logits = np.zeros((len(task.eval_data), 64, 2), dtype=np.float32)
    for window, row in zip(logits, task.eval_data, strict=True):
        window[row["start_positions"], 0] = window[row["end_positions"], 1] = 9
    return logits


def metrics_of(task: Any, logits: np.ndarray) -> dict[str, float]:
    return task.compute_metrics(EvalPrediction(logits, np.zeros(0)))
