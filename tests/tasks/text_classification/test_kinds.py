"""Labels of every kind become the right targets, and the config says what they are."""

from __future__ import annotations

import json

import datasets
import pytest

from hf_td.tasks.text_classification import load_texts


def _rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _load(tokenizer, file, **more):
    return load_texts(tokenizer, **{"train_file": file, "validation_file": file, **more})


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["good", "bad", "bad"], ("bad", "good")),
        ([7, -3, 7], ("-3", "7")),
        (["true", "false", "true"], ("False", "True")),
        (["NA", "DE", "DE"], ("DE", "NA")),
    ],
    ids=str,
)
def test_classes_of_a_table_are_sorted(tokenizer, table, labels, names):
    data = _load(tokenizer, table(labels))
    assert data.labels.names == names
    assert data.labels.config == {
        "problem_type": "single_label_classification",
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
    }
    shown = [names[i].lower() for i in data.train["labels"]]
    assert shown == [str(label).lower() for label in labels]
    assert data.metric == "accuracy"


def test_names_of_classes_in_the_data_keep_their_order(tokenizer, tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["z", "a", "m"])}
    )
    rows = datasets.Dataset.from_dict({"text": ["good", "bad"], "label": [0, 1]}, features)
    for split in ("train", "validation"):
        rows.to_parquet(tmp_path / "named" / f"{split}.parquet")
    data = load_texts(tokenizer, dataset_name=str(tmp_path / "named"))
    assert data.labels.names == ("z", "a", "m")
    assert data.train["labels"][:] == [0, 1]


def test_floating_point_numbers_are_a_regression(tokenizer, table, caplog):
    data = _load(tokenizer, table([0.5, 2.0, 3.25]))
    assert data.labels.config == {
        "problem_type": "regression",
        "id2label": {0: "label"},
        "label2id": {"label": 0},
    }
    assert data.train["labels"][:] == [0.5, 2.0, 3.25]
    assert data.train.features["labels"].dtype == "float32"
    assert data.metric == "pearson"
    assert "Give --do_regression False for classes" in caplog.text


def test_whole_numbers_are_a_regression_where_it_is_asked_for(tokenizer, table):
    data = _load(tokenizer, table([1, 5, 3]), do_regression=True, metric="rmse")
    assert data.train["labels"][:] == [1.0, 5.0, 3.0]
    assert data.metric == "rmse"


def test_floating_point_numbers_are_classes_where_it_is_asked_for(tokenizer, table):
    data = _load(tokenizer, table([1.0, 2.0, 1.0]), do_regression=False)
    assert data.labels.names == ("1", "2")


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([["x", "y"], [], ["y"]], ("x", "y")),
        ([[4, 2], [], [2]], ("2", "4")),
        ([[1, 1], [0, 0], [0, 1]], ("label_0", "label_1")),
    ],
)
def test_lists_are_several_classes_at_once(tokenizer, tmp_path, values, names):
    rows = [{"text": "good", "label": value} for value in values]
    data = _load(tokenizer, _rows(tmp_path / "lists.jsonl", rows))
    assert data.labels.problem == "multi_label_classification"
    assert data.labels.names == names
    wanted = {"x": [[1, 1], [0, 0], [0, 1]], "2": [[1, 1], [0, 0], [1, 0]]}
    assert data.train["labels"][:] == wanted.get(names[0], [[1, 1], [0, 0], [0, 1]])
    assert data.metric == "micro_f1"


def test_a_text_can_list_several_classes(tokenizer, table):
    data = _load(tokenizer, table(["x|y", "", "y"]), label_separator="|")
    assert data.labels.names == ("x", "y")
    assert data.train["labels"][:] == [[1, 1], [0, 0], [0, 1]]


def test_several_columns_are_several_classes_at_once(tokenizer, tmp_path):
    rows = [{"text": "good", "x": 1, "y": False}, {"text": "bad", "x": 0, "y": True}]
    data = _load(tokenizer, _rows(tmp_path / "c.jsonl", rows), label_column=["x", "y"])
    assert data.labels.names == ("x", "y")
    assert data.train["labels"][:] == [[1, 0], [0, 1]]


def test_pairs_are_tokenised_together(tokenizer, tmp_path):
    rows = [{"a": "good", "b": "bad film", "label": i} for i in range(2)]
    columns = {"text_column": "a", "text_pair_column": "b"}
    data = _load(tokenizer, _rows(tmp_path / "pairs.jsonl", rows), **columns)
    assert data.train["input_ids"][0] == [2, 3, 4]


def test_a_trainer_can_use_the_data(tokenizer, table):
    data = _load(tokenizer, table(["x", "y", "x"]))
    given = data.for_trainer
    batch = given["data_collator"]([given["train_dataset"][i] for i in range(3)])
    assert batch["labels"].tolist() == [0, 1, 0]
    assert batch["input_ids"].shape[0] == 3
