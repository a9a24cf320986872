"""Each bad input is one clear message."""

from __future__ import annotations

import gc
import json
import re

import pytest

from hf_td.tasks.text_classification import load_texts
from hf_td.tasks.text_classification.texts import looks_like_ids


def _refusal(tokenizer, **arguments) -> str:
    with pytest.raises((ValueError, OSError), match=r"\w") as refused:
        load_texts(tokenizer, **arguments)
    return str(refused.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            ["x", "", "y"],
            "1 of 3 rows of the train split have no label in the column label, first row 1",
        ),
        ([1, "nan", 0], "1 of 3 rows of the train split have no label"),
        ([1.5, "", 0.5], "1 of 3 rows of the train split have no label"),
        (
            ["x", "x", "x"],
            "all rows of the train split have one class in the column label: 'x' (rows: 3)",
        ),
        (
            range(20),
            "looks like an id, not like a class: 20 rows of the train split have 20 values",
        ),
        (range(20), "Give --do_regression to predict numbers"),
    ],
)
def test_labels_of_a_table(tokenizer, table, labels, message):
    file = table(labels)
    assert message in _refusal(tokenizer, train_file=file, validation_file=file)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, "x"], "the column label of the train split holds number, text. Labels must all be"),
        ([True, 2], "holds number, truth value"),
        ([["x"], None], "1 of 2 rows of the train split have no label"),
        ([{"x": 1}, {"x": 2}], "holds dict"),
        ([[], []], "no row of the train split has a label in the column label"),
    ],
)
def test_labels_of_rows(tokenizer, tmp_path, labels, message):
    path = tmp_path / "t.jsonl"
    rows = [{"text": "good", "label": label} for label in labels]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert message in _refusal(tokenizer, train_file=str(path), validation_file=str(path))


def test_a_label_that_no_training_row_has(tokenizer, table):
    files = {"train_file": table(["x", "y"]), "validation_file": table(["x", "z"], name="v.csv")}
    message = _refusal(tokenizer, **files)
    assert "the validation split has labels that no training row has: 'z'" in message
    assert "The training rows have 'x', 'y'" in message


@pytest.mark.parametrize(
    ("labels", "more", "message"),
    [
        (
            ["x", "y"],
            {"do_regression": True},
            "a regression needs finite numbers. The column label",
        ),
        (["x", "y"], {"metric": "pearson"}, "Give one of accuracy, macro_f1, f1."),
        (["x", "y"], {"metric": "f2"}, "--metric f2 does not exist"),
        ([2, 3], {"label_column": ["label", "label"]}, "must hold 0 and 1. The column label"),
        (["x", "y"], {"validation_split_percentage": 0}, "is from 1 to 99, got 0"),
        (["x", "y"], {"max_train_samples": 0}, "max_train_samples must be at least 1"),
        (["x", "y"], {"dataset_name": "a"}, "give either --dataset_name or --train_file"),
    ],
    ids=str,
)
def test_what_does_not_fit_the_labels(tokenizer, table, labels, more, message):
    file = table(labels)
    assert message in _refusal(tokenizer, train_file=file, validation_file=file, **more)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"text_column": "review"},
            "no column review. It has text, label. Name the column with --text_column",
        ),
        ({"text_pair_column": "b"}, "has no column b. It has text, label"),
        ({"label_column": "stars"}, "Name the column with --label_column"),
    ],
    ids=str,
)
def test_a_missing_column_lists_those_that_there_are(tokenizer, table, columns, message):
    assert message in _refusal(tokenizer, train_file=table(["x", "y"]), **columns)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            ["good", " "],
            "1 of 2 rows of the train split have no text in the column text, first row 1",
        ),
        ([1, 2], "the column text of the train split must hold text. It holds Value('int64')"),
        (["id_1", "id_2"], "looks like an id, not like a text: 'id_1', 'id_2'"),
    ],
)
def test_texts(tokenizer, table, texts, message):
    file = table(["x", "y"], texts)
    assert message in _refusal(tokenizer, train_file=file, validation_file=file)


def test_files_with_different_columns(tokenizer, table, tmp_path):
    other = tmp_path / "v.csv"
    other.write_text("text,stars\ngood,x\n")
    message = _refusal(tokenizer, train_file=table(["x", "y"]), validation_file=str(other))
    assert "the validation split has no column label. It has text, stars" in message


def test_a_folder_of_files_with_different_columns(tokenizer, table, tmp_path):
    table(["x", "y"], name="train.csv")
    (tmp_path / "validation.csv").write_text("text,stars\ngood,x\n")
    message = _refusal(tokenizer, dataset_name=str(tmp_path))
    assert re.search("cannot be read: .*stars", message, re.DOTALL)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_file_that_is_not_utf_8(tokenizer, tmp_path, suffix):
    path = tmp_path / f"t.{suffix}"
    text = {
        "csv": "text,label\ncafé au lait,x\n",
        "jsonl": '{"text": "café au lait", "label": 1}\n',
    }
    path.write_bytes(text[suffix].encode("latin-1"))
    message = _refusal(tokenizer, train_file=str(path))
    assert "is not UTF-8 (byte 0xe9). Convert it, for instance by iconv -f latin1" in message


# pandas leaves the file open; the warning would come in a later test.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_a_table_whose_label_changes_its_kind(tokenizer, table):
    file = table([*([0, 1] * 5001), "maybe"])
    assert "a column has values of different kinds" in _refusal(tokenizer, train_file=file)
    gc.collect()


def test_a_table_without_rows(tokenizer, table):
    assert "t.csv cannot be read: it has no rows" in _refusal(tokenizer, train_file=table([]))


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere.csv", "nowhere.csv does not exist"), ("t.xlsx", "a file of the kinds .csv, .tsv")],
)
def test_a_file_that_cannot_be_data(tokenizer, tmp_path, name, message):
    (tmp_path / "t.xlsx").write_text("")
    assert message in _refusal(tokenizer, train_file=str(tmp_path / name))


def test_a_folder_without_data(tokenizer, tmp_path):
    (tmp_path / "README.md").write_text("nothing")
    assert "has no data files. Give a folder with files" in _refusal(
        tokenizer, dataset_name=str(tmp_path)
    )


@pytest.mark.parametrize(
    ("texts", "ids"),
    [
        (["user-1", "user-23"], True),
        (["a3f09bc412d0e8a7", "b3f09bc412d0e8a7"], True),
        (["7", "8"], True),
        (["C1CCCCC1", "CCO1CC"], False),
        (["good film 1", "bad film 2"], False),
        (["好电影", "坏电影"], False),
    ],
)
def test_ids(texts, ids):
    assert looks_like_ids(texts) is ids


def test_spaces_around_the_name_of_a_column_are_shown(tokenizer, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(" text,label\ngood,x\nbad,y\n")
    with pytest.raises(ValueError, match=r"no column text\. It has ' text', label\. Name"):
        load_texts(tokenizer, train_file=str(path))


def test_a_folder_as_a_file_is_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"is a folder\. Give a file, or the folder as --dataset"):
        load_texts(tokenizer, train_file=str(tmp_path))
