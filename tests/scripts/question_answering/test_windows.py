"""Windows of contexts, and their answers."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest

from hf_td.tasks.models import builtin_model
from hf_td.tasks.translation.vocabulary import train_tokenizer
from tests.scripts.question_answering.questions import (
    metrics_of,
    places_of,
    question,
    rows_of,
    task_of,
    true_logits,
    write,
)


def test_windows_hold_the_whole_context_and_overlap(options):
    task = task_of(options)
    tokenizer, rows = task.processor, rows_of(options)
    spans: dict[int, list[Any]] = {}
    for window, place in zip(task.eval_data, places_of(task), strict=True):
        row = rows[place["row"]]
        words = tokenizer.convert_ids_to_tokens(window["input_ids"])
        held = list(zip(words, place["token_starts"], place["token_ends"], strict=True))
        assert len(words) <= 24
        assert words[:7] == ["[CLS]", *row["question"].split(), "[SEP]"]
        assert words[place["null"]] == "[CLS]"
        assert all(start == end == -1 for _, start, end in [*held[:7], held[-1]])
        assert all(row["context"][start:end] == word for word, start, end in held[7:-1])
        spans.setdefault(place["row"], []).append(held[7:-1])
    for number, parts in spans.items():
        for one, other in pairwise(parts):
            assert one[-6:] == other[:6]
        tokens = [parts[0], *(part[6:] for part in parts[1:])]
        words = [word for part in tokens for word, *_ in part]
        assert words == tokenizer.tokenize(rows[number]["context"])


def test_windows_learn_the_answer_that_they_hold(options):
    task = task_of(options)
    rows, seen = rows_of(options), set()
    for window, place in zip(task.eval_data, places_of(task), strict=True):
        row = rows[place["row"]]
        first, last = window["start_positions"], window["end_positions"]
        start, text = row["answers"]["answer_start"][0], row["answers"]["text"][0]
        held = [i for i in place["token_starts"] if i >= 0]
        if held[0] <= start and start + len(text) <= max(place["token_ends"]):
            assert row["context"][place["token_starts"][first] : place["token_ends"][last]] == text
            seen.add(place["row"])
        else:
            assert first == last == place["null"] == 0
    assert len(seen) == len(rows)
    assert len(task.eval_data) > len(rows)


def test_an_answer_inside_of_a_word_is_that_word(options, tmp_path):
    row = question(0)
    row["answers"] = {"text": ["onn"], "answer_start": [row["context"].index("onn")]}
    data = write(tmp_path / "inside", train=[row], validation=[row])
    task = task_of({**options, "dataset_name": data})
    (window,) = task.train_data
    first, last = window["start_positions"], window["end_positions"]
    assert task.processor.decode(window["input_ids"][first : last + 1]) == "Bonn"


@pytest.mark.parametrize("kind", ["byte pairs", "word pieces"])
def test_answers_are_found_in_any_letters(options, kind, tmp_path):
    """Check letters of several bytes, with a tokenizer without classification token."""
    context = "Grüße aus Zürich, sagte sie; nicht aus der Neuen Welt (世界), wie er es meint."
    rows = [
        {
            "question": "Woher?",
            "context": f"{context} {context}",
            "answers": {"text": [text], "answer_start": [context.index(text)]},
        }
        for text in ("Zürich", "Grüße", "世界", "der Neuen Welt", "wie er es")
    ]
    data = write(tmp_path / "letters", train=rows, validation=rows)
    options |= {"dataset_name": data, "max_seq_length": 40, "tokenizer_name": builtin_model()}
    if kind == "byte pairs":
        train_tokenizer([context], 300).save_pretrained(tmp_path / "bytes")
        options |= {"tokenizer_name": tmp_path / "bytes", "max_seq_length": 60}
    task = task_of(options)
    assert len(task.eval_data) > len(rows)
    assert set(places_of(task)["null"]) == {0}
    assert metrics_of(task, true_logits(task)) == {"exact_match": 100, "f1": 100}


def test_samples_are_questions_and_not_windows(options):
    task = task_of({**options, "max_train_samples": 3, "max_eval_samples": 5})
    assert sorted(set(places_of(task)["row"])) == list(range(5))
    assert len(task.eval_data) > 5
    assert set(task.train_data.column_names) == set(task.eval_data.column_names)


def test_columns_can_have_other_names(options, folder, tmp_path):
    names = {"question": "q", "context": "text", "answers": "spans"}
    for split in ("train", "validation"):
        rows = map(json.loads, (folder / f"{split}.jsonl").read_text().splitlines())
        renamed: list[Any] = [{names.get(name, name): v for name, v in row.items()} for row in rows]
        write(tmp_path / "other", **{split: renamed})
    named = {"question_column": "q", "context_column": "text", "answers_column": "spans"}
    other = task_of({**options, "dataset_name": tmp_path / "other", **named})
    assert other.train_data.to_list() == task_of(options).train_data.to_list()


def test_an_answer_that_is_not_in_its_place_is_warned_of(options, tmp_path, caplog):
    wrong = question(1)
    wrong["answers"]["answer_start"][0] += 1
    data = write(tmp_path / "wrong", train=[question(0), wrong], validation=[question(2)])
    task_of({**options, "dataset_name": data})
    assert "in 1 of 2 training rows the answer is not at answer_start" in caplog.text
    assert "Where does Ben live ?" in caplog.text
