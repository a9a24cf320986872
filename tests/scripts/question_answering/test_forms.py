"""Questions in other forms: one text as answer, SQuAD's own files, tables."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from hf_td.tasks.errors import UsageError
from hf_td.tasks.question_answering.questions import QuestionAnsweringArguments, load_questions
from tests.scripts.question_answering.questions import question

ROWS = [question(i, filling=i % 2) for i in range(6)]


def _table(path: Path, rows: list[dict[str, Any]]) -> str:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ask", "text", "reply", "at"])
        for row in rows:
            answers = row["answers"]
            reply, at = (answers["text"] or [""])[0], (answers["answer_start"] or [0])[0]
            writer.writerow([row["question"], row["context"], reply, at])
    return str(path)


def _load(file: str, **more: Any) -> Any:
    return load_questions(
        QuestionAnsweringArguments(train_file=file, validation_file=file, **more)
    ).splits["train"]


COLUMNS: dict[str, Any] = {
    "question_column": "ask",
    "context_column": "text",
    "answers_column": "reply",
}


@pytest.mark.parametrize("more", [{}, {"answer_start_column": "at"}], ids=str)
def test_a_table_with_one_answer_a_row(tmp_path, more):
    found = _load(_table(tmp_path / "t.csv", ROWS), **COLUMNS, **more)
    for row, true in zip(found, ROWS, strict=True):
        assert row["question"] == true["question"]
        start, text = row["answers"]["answer_start"][0], row["answers"]["text"][0]
        assert row["context"][start : start + len(text)] == text == true["answers"]["text"][0]


def test_an_empty_answer_of_a_table_is_none(tmp_path):
    file = _table(tmp_path / "t.csv", [*ROWS, question(7, answered=False)])
    with pytest.raises(UsageError, match="--version_2_with_negative to learn"):
        _load(file, **COLUMNS)
    found = _load(file, **COLUMNS, version_2_with_negative=True)
    assert found[6]["answers"] == {"text": [], "answer_start": []}


def test_an_answer_that_is_not_in_its_context_is_refused(tmp_path):
    other = {**ROWS[0], "answers": {"text": ["Mars"], "answer_start": [0]}}
    with pytest.raises(UsageError, match="1 of 7 answers of the train split are not in their cont"):
        _load(_table(tmp_path / "t.csv", [*ROWS, other]), **COLUMNS)


@pytest.mark.parametrize("flat", [True, False])
def test_files_as_squad_publishes_them(tmp_path, flat):
    paragraphs = []
    for row in ROWS:
        texts, starts = row["answers"].values()
        answers = [{"text": t, "answer_start": s} for t, s in zip(texts, starts, strict=True)]
        asked = {"id": row["id"], "question": row["question"], "answers": answers}
        paragraphs.append({"context": row["context"], "qas": [asked]})
    articles = [
        {"title": "a", "paragraphs": paragraphs[:2]},
        {"title": "b", "paragraphs": paragraphs[2:]},
    ]
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"version": "1.1", "data": ROWS if flat else articles}))
    found = _load(str(path))
    assert [row["question"] for row in found] == [row["question"] for row in ROWS]
    assert [row["answers"] for row in found] == [row["answers"] for row in ROWS]


def test_the_last_questions_are_held_out(tmp_path, caplog):
    data = QuestionAnsweringArguments(
        train_file=_table(tmp_path / "t.csv", ROWS), validation_split_percentage=30, **COLUMNS
    )
    loaded = load_questions(data)
    assert loaded.measured == "held-out 30 % of the training"
    asked = [row["question"] for row in loaded.splits["validation"]]  # pyright: ignore
    assert asked == [row["question"] for row in ROWS[-2:]]
    assert "(the last rows)" in caplog.text
