"""What is trained on and what is measured on, with and without files for both."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from hf_td.tasks.text_classification import load_texts


def test_without_a_validation_split_rows_are_held_out_of_each_class(tokenizer, table, caplog):
    file = table(["x"] * 30 + ["y"] * 10)
    data = load_texts(tokenizer, train_file=file)
    held: Any = data.evaluation
    assert sorted(held["labels"]) == [0, 0, 0, 1]
    assert (len(data.train), data.measured) == (36, "held-out 10 % of the training")
    assert "10 % of the training rows are held out" in caplog.text
    assert "stratified by label, seed 0" in caplog.text
    again = load_texts(tokenizer, train_file=file)
    assert again.evaluation["input_ids"][:] == data.evaluation["input_ids"][:]


def test_a_class_of_one_row_is_trained_on(tokenizer, table):
    labels = [*["x"] * 18, "y", "y", "z"]
    for percentage in (10, 50):
        more = {"validation_split_percentage": percentage}
        data = load_texts(tokenizer, train_file=table(labels), **more)
        assert set(data.train["labels"]) == {0, 1, 2}
        assert len(data.evaluation) == round(len(labels) * percentage / 100)


def test_fewer_rows_than_classes_are_drawn_at_random(tokenizer, table, caplog):
    data = load_texts(tokenizer, train_file=table(["x", "y", "z"] * 4))
    assert len(data.evaluation) == 1
    assert "(random, seed 0)" in caplog.text


def test_a_test_file_alone_is_measured(tokenizer, table, caplog):
    test = table(["y"], name="test.csv")
    data = load_texts(tokenizer, train_file=table(["x", "y"]), test_file=test)
    assert data.measured == "test"
    assert len(data.evaluation) == 1
    assert "The test split is measured" in caplog.text


def test_a_test_file_is_measured_beside_the_validation_file(tokenizer, table):
    files = {f"{name}_file": table(["x", "y"], name=f"{name}.csv") for name in ("train", "test")}
    data = load_texts(tokenizer, **files, validation_file=files["train_file"])
    assert list(data.evaluation) == ["validation", "test"]
    assert data.metric == "validation_accuracy"


def test_a_folder_with_files_of_all_splits(tokenizer, table, tmp_path):
    for name in ("train.csv", "validation.csv", "test.csv"):
        table(["x", "y", "x"], ["None", "NA", "a"], name=name)
    data = load_texts(tokenizer, dataset_name=str(tmp_path))
    assert data.measured == "validation"
    assert len(data.train) == 3


@pytest.mark.parametrize("sign", [";", "\t", "|"])
def test_a_table_with_another_separator(tokenizer, tmp_path, sign):
    path = tmp_path / "t.csv"
    lines = [("the text", "what"), ("good, very", "x"), ("bad", "y")]
    path.write_text("\n".join(sign.join(line) for line in lines) + "\n", encoding="utf-8-sig")
    columns = {"text_column": "the text", "label_column": "what"}
    data = load_texts(tokenizer, train_file=str(path), validation_file=str(path), **columns)
    assert data.labels.names == ("x", "y")


def test_a_compressed_table(tokenizer, tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"text,label\ngood,x\nbad,y\n"))
    data = load_texts(tokenizer, train_file=str(path), validation_file=str(path))
    assert data.labels.names == ("x", "y")


def test_rows_under_the_key_data(tokenizer, tmp_path):
    path = tmp_path / "t.json"
    path.write_text(
        '{"version": "1", "data": [{"text": "good", "label": 1}, {"text": "b", "label": 0}]}'
    )
    data = load_texts(tokenizer, train_file=str(path), validation_file=str(path))
    assert data.train["labels"][:] == [1, 0]
