"""What is trained on and what is measured on, with and without files for both."""

from __future__ import annotations

import bz2
import gzip
import lzma
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


def test_numbers_that_occur_once_are_held_out_too(tokenizer, table):
    scores = [0.0] * 20 + [0.01 + i / 100 for i in range(20)]
    data = load_texts(tokenizer, train_file=table(scores), validation_split_percentage=50)
    held: Any = data.evaluation
    assert sum(score > 0 for score in held["labels"]) in (10, 11)
    assert sum(score > 0 for score in data.train["labels"]) in (9, 10)


def test_rows_of_messages_are_those_of_the_file(tokenizer, table):
    labels = [("x", "y")[i % 2] for i in range(40)]
    texts = [f"a good film {'very ' * i}" for i in range(40)]
    for i in (17, 23, 31, 39):
        labels[i] = ""
    with pytest.raises(ValueError, match=r"4 of 40 rows of the train split have no label.*row 17"):
        load_texts(tokenizer, train_file=table(labels, texts))
    for i in (12, 19, 28, 30, 36):
        texts[i] = ""
    with pytest.raises(ValueError, match=r"5 of 40 rows of the train split have no text.*row 12"):
        load_texts(tokenizer, train_file=table(labels, texts))


def test_rows_to_measure_with_one_label_are_warned_of(tokenizer, table, caplog):
    file = table(["x"] * 40 + ["y"] * 40)  # sorted by label
    for size, warns in ((None, False), (1, False), (3, True)):
        caplog.clear()
        data = load_texts(tokenizer, train_file=file, max_eval_samples=size)
        assert len(data.evaluation) == (size or 8)
        assert ("all 3 rows to measure of the validation split have one" in caplog.text) is warns


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


@pytest.mark.parametrize(
    ("end", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)]
)
@pytest.mark.parametrize("sign", [",", ";", "\t"])
def test_a_compressed_table(tokenizer, tmp_path, end, compress, sign):
    path = tmp_path / f"t.csv.{end}"
    path.write_bytes(compress(b"text,label\ngood,x\nbad,y\n".replace(b",", sign.encode())))
    data = load_texts(tokenizer, train_file=str(path), validation_file=str(path))
    assert data.labels.names == ("x", "y")


def test_compressed_rows_under_the_key_data(tokenizer, tmp_path):
    path = tmp_path / "t.json.gz"
    path.write_bytes(
        gzip.compress(b'{"data": [{"text": "a", "label": 1}, {"text": "b", "label": 0}]}')
    )
    data = load_texts(tokenizer, train_file=str(path), validation_file=str(path))
    assert data.train["labels"][:] == [1, 0]


def test_a_damaged_compressed_table_is_refused(tokenizer, tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"text,label\ngood,x\nbad,y\n")[:-12])
    with pytest.raises(ValueError, match="gz cannot be read: Compressed file ended before"):
        load_texts(tokenizer, train_file=str(path))


def test_rows_under_the_key_data(tokenizer, tmp_path):
    path = tmp_path / "t.json"
    path.write_text(
        '{"version": "1", "data": [{"text": "good", "label": 1}, {"text": "b", "label": 0}]}'
    )
    data = load_texts(tokenizer, train_file=str(path), validation_file=str(path))
    assert data.train["labels"][:] == [1, 0]
