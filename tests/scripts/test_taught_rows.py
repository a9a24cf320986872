"""Rows that only the teacher labels, in runs of the scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from hf_td.tasks.experiment import trainers
from hf_td.tasks.registry import run_task
from hf_td.tasks.taught import load_transfer_set
from hf_td.training.augmentation import VariantDataset
from hf_td.training.distillation import PRESETS
from tests.programs import argv_of, load_script, refusal, results_of
from tests.tiny import tiny_tokenizer

run_glue = load_script("run_glue")
run_classification = load_script("run_classification")
TEXTS = ["the author laughs", "the authors laugh", "  ", "every teacher sleeps"]


@pytest.fixture
def texts(tmp_path) -> str:
    path = tmp_path / "more.txt"
    path.write_text("".join(f"{text}\n" for text in TEXTS))
    return str(path)


@pytest.fixture
def trained_on(monkeypatch) -> list[Any]:
    """Return a list that gets the training rows of each Trainer."""
    found: list[Any] = []
    make = trainers.taught_rows

    def noted(*args: Any) -> Any:
        found.append(make(*args))
        return found[-1]

    monkeypatch.setattr(trainers, "taught_rows", noted)
    return found


@pytest.mark.parametrize("method", ["targeted_dropout", "gradual_magnitude", "l1", "none"])
def test_every_method_trains_on_what_the_teacher_labels(
    options, texts, method, trained_on, tmp_path
):
    given = {**options, "method": method, "dense_epochs": 1, "teacher": "start"}
    run_glue.main(argv_of({**given, "transfer_set": texts, "augment": 1, "max_steps": 3}))
    dense, taught = trained_on
    assert len(dense) == 64  # the dense stage has no teacher
    assert isinstance(taught, VariantDataset)
    assert len(taught.rows) == 64 + 3
    assert [row["labels"] for row in taught.rows][-4:] == [dense[-1]["labels"], *[-100] * 3]
    recorded = results_of(options)["configuration"]["arguments"]
    assert (recorded["transfer_set"], recorded["augment"]) == (texts, 1)
    assert sum(entry["updates"] for entry in [results_of(options)["runs"][0]["training"]]) == 3


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_runs(options, texts, name, tmp_path):
    given = {**options, "teacher": "start", "distill": name, "max_steps": 2}
    run_glue.main(argv_of({**given, "transfer_set": texts}))
    assert results_of(options)["runs"][0]["training"]["updates"] == 2


def test_a_regression_on_own_files_has_a_transfer_set(options, texts, tmp_path):
    del options["task_name"]
    path = tmp_path / "own.jsonl"
    rows = [{"words": TEXTS[i % 2], "label": 0.5 + i % 2} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given: dict[str, Any] = {**options, "train_file": str(path), "text_column": "words"}
    given |= {"dense_epochs": 1, "teacher": "start", "transfer_set": texts, "augment": 1}
    run_classification.main(argv_of({**given, "ignore_mismatched_sizes": True}))
    assert results_of(options)["runs"][0]["training"]["loss"] >= 0


def test_the_vocabulary_keeps_the_words_of_the_transfer_set(options, texts, tmp_path, capsys):
    del options["task_name"]
    path = tmp_path / "own.jsonl"
    rows = [{"text": TEXTS[i % 2], "label": i % 2} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {**options, "train_file": str(path), "dense_epochs": 1, "teacher": "start"}
    given |= {"trim_vocabulary": True, "transfer_set": texts}
    run_task("text_classification", argv_of(given), None)
    kept = Path(options["output_dir"]).rglob("tokenizer.json")
    vocabulary = json.loads(next(kept).read_text())["model"]["vocab"]
    assert {"every", "teacher"} <= vocabulary.keys()


def test_the_columns_of_a_transfer_set_are_found_or_named(tmp_path, caplog):
    tokenizer = tiny_tokenizer()
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("one,two,label\nword,word,0\nword,,1\n")
    found = load_transfer_set(str(pairs), ["one", "two"], tokenizer, 8)
    assert isinstance(found, datasets.Dataset)
    assert found["input_ids"][:] == [[2, 2]]
    assert "1 of 2 rows of the transfer set" in caplog.text
    assert load_transfer_set(None, ["one"], tokenizer, 8) is None
    with pytest.raises(ValueError, match=r"no column sentence.*Name the column with --transfer_s"):
        load_transfer_set(str(pairs), ["sentence"], tokenizer, 8)
    labels = tmp_path / "labels.csv"
    labels.write_text("id,label\n1,good\n2,bad\n")
    with pytest.raises(ValueError, match="no column sentence"):
        load_transfer_set(str(labels), ["sentence"], tokenizer, 8)
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n \n")
    with pytest.raises(ValueError, match="has no row with a text in text"):
        load_transfer_set(str(empty), ["sentence"], tokenizer, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transfer_set": "texts.txt"}, "--transfer_set adds rows that a teacher labels"),
        ({"augment": 2}, "--augment adds rows that a teacher labels, and there is none"),
        ({"augment": -1, "teacher": "start"}, "--augment is at least 0, got -1"),
        ({"transfer_set": "./no.txt", "teacher": "start"}, "no.txt does not exist"),
    ],
)
def test_what_cannot_be_taught_is_refused(options, changes, message, capsys):
    assert message in refusal(run_glue, {**options, **changes}, capsys)
