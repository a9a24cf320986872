"""Calibration batches of any text, for every kind of model."""

from __future__ import annotations

import json
from typing import Any

import datasets
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel

from hf_td import prune_model
from hf_td.tasks.data.calibration import Columns, calibration_batches
from tests.tiny import TEXT
from tests.vocabulary.test_trim import llama as tiny_llama
from tests.vocabulary.tokenizers_of import CORPUS, FAMILIES


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return FAMILIES["wordpiece"]()


def bert(cls: Any, tokenizer: Any) -> Any:
    torch.manual_seed(0)
    return cls(BertConfig(**{**TEXT, "vocab_size": len(tokenizer)})).eval()


def written(folder: Any, kind: str) -> str:
    """Write the corpus in some form, and return its name."""
    rows = [{"text": text, "label": number % 2} for number, text in enumerate(CORPUS)]
    if kind == "jsonl":
        (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    elif kind == "folder":
        (folder / "set").mkdir()
        (folder / "set" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    else:
        (folder / f"a.{kind}").write_text("\n".join(CORPUS))
    return str(folder / ("set" if kind == "folder" else f"a.{kind}"))


@pytest.mark.parametrize("kind", ["jsonl", "folder", "txt", "log"])
def test_files_of_all_kinds_give_the_texts(tmp_path, tokenizer, kind):
    model = bert(BertModel, tokenizer)
    batches = calibration_batches(written(tmp_path, kind), model, tokenizer, rows=3, size=2)
    assert [len(batch["input_ids"]) for batch in batches] == [2, 1]
    first = batches[0]
    assert first.keys() == {"input_ids", "attention_mask"}
    ids = first["input_ids"][0][first["attention_mask"][0].bool()].tolist()
    text = CORPUS[0] if kind in ("jsonl", "folder") else f"{CORPUS[0]}\n"  # a line
    assert ids == tokenizer(text)["input_ids"]
    with torch.no_grad():
        assert torch.isfinite(model(**first).last_hidden_state).all()


def test_a_language_model_gets_full_rows(tmp_path):
    tokenizer = FAMILIES["byte_level"]()
    model: Any = tiny_llama(tokenizer)
    file = written(tmp_path, "jsonl")
    batches = calibration_batches(file, model, tokenizer, length=8, size=4, labelled=True)
    assert all(batch["input_ids"].shape[1] == 8 for batch in batches)
    assert all(batch["attention_mask"].all() for batch in batches[:-1])
    found = torch.cat([b["input_ids"][b["attention_mask"].bool()] for b in batches]).tolist()
    assert found == [token for text in CORPUS for token in tokenizer(text)["input_ids"]]
    assert (batches[-1]["labels"] == -100).equal(batches[-1]["attention_mask"] == 0)
    assert torch.isfinite(model(**batches[0]).loss)


@pytest.mark.parametrize(
    ("names", "labels", "numbers"),
    [
        (("-1", "2", "7"), (7, -1, 2), [2, 0, 1]),  # as `hf-td train text` names such classes
        (("bad", "good"), ("good", "bad"), [1, 0]),
        (("bad", "good"), (0, 1), [0, 1]),
        (("score",), (0.5, 3.0), [0.5, 3.0]),
        (("-1", "2", "7"), (0,), None),
        (("bad", "good"), (2,), None),
        (("bad", "good"), (1.0, 0.0), [1, 0]),  # as a column with gaps is read
        (("bad", "good"), (3.87,), None),
    ],
)
def test_labels_are_classes_by_name_or_by_number(tmp_path, tokenizer, names, labels, numbers):
    model = bert(BertForSequenceClassification, tokenizer)
    model.config.id2label = dict(enumerate(names))
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"text": "a b", "label": one}) for one in labels))
    if numbers is None:
        with pytest.raises(ValueError, match=f"label {labels[0]} is none of"):
            calibration_batches(str(file), model, tokenizer, labelled=True)
    else:
        (batch,) = calibration_batches(str(file), model, tokenizer, labelled=True)
        assert batch["labels"].tolist() == numbers


STARS = ("1", "2", "3", "4", "5")


@pytest.mark.parametrize(
    ("own", "names", "ids", "numbers"),
    [
        (STARS, STARS, (1, 2, 4), [1, 2, 4]),
        (STARS[::-1], STARS, (1, 2, 4), [3, 2, 0]),
        (STARS[:3], ("3", "1"), (0, 1), [2, 0]),
        (("LABEL_0", "LABEL_1"), ("bad", "good"), (1, 0), [1, 0]),
        (STARS, ("a", "b", "c", "d", "e"), (4, 0), [4, 0]),
        (("score",), STARS, (1, 4), [2.0, 5.0]),  # as a regression reads names that are numbers
        (("score",), ("bad", "good"), (1, 0), [1, 0]),
        (("bad", "good", "long"), ("cat", "dog"), (0, 1), "label 'cat' is none of"),
        (STARS, STARS, (1, -1), "a row has no label"),
    ],
)
def test_classes_of_a_column_are_those_of_the_model(tmp_path, tokenizer, own, names, ids, numbers):
    model = bert(BertForSequenceClassification, tokenizer)
    model.config.id2label = dict(enumerate(own))
    file = stored(tmp_path, ids, datasets.ClassLabel(names=list(names)))
    if isinstance(numbers, str):
        with pytest.raises(ValueError, match=numbers):
            calibration_batches(file, model, tokenizer, labelled=True)
    else:
        (batch,) = calibration_batches(file, model, tokenizer, labelled=True)
        assert batch["labels"].tolist() == numbers


@pytest.mark.parametrize(
    ("own", "names", "ids", "bits"),
    [
        (("1", "2", "3"), ("1", "2", "3"), [0, 2], [1.0, 0.0, 1.0]),
        (("LABEL_0", "LABEL_1", "LABEL_2"), ("a", "b", "c"), [2], [0.0, 0.0, 1.0]),
        (("a", "b", "c"), ("no", "yes"), [0, 1, 1], [0.0, 1.0, 1.0]),
    ],
)
def test_so_are_those_of_a_column_of_lists(tmp_path, tokenizer, own, names, ids, bits):
    model = bert(BertForSequenceClassification, tokenizer)
    model.config.id2label = dict(enumerate(own))
    model.config.problem_type = "multi_label_classification"
    file = stored(tmp_path, [ids], datasets.List(datasets.ClassLabel(names=list(names))))
    (batch,) = calibration_batches(file, model, tokenizer, labelled=True)
    assert batch["labels"].tolist() == [bits]


def stored(folder: Any, labels: Any, feature: Any) -> str:
    """Write rows with these labels to a file, and return its name."""
    columns = {"text": ["a b"] * len(labels), "label": list(labels)}
    features = datasets.Features({"text": datasets.Value("string"), "label": feature})
    datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / "rows.parquet")
    return str(folder / "rows.parquet")


@pytest.mark.parametrize("cls", [BertForMaskedLM, BertForSequenceClassification])
def test_gradients_have_a_loss(tmp_path, tokenizer, cls):
    model = bert(cls, tokenizer)
    file = written(tmp_path, "jsonl")
    batches = calibration_batches(file, model, tokenizer, labelled=True)
    loss = model(**batches[0]).loss
    assert torch.isfinite(loss)
    assert loss > 0
    report = prune_model(model, 0.5, level="unit", importance="taylor", calibration=batches)
    assert report.sparsity == pytest.approx(0.5, abs=0.01)


def test_a_masked_language_model_does_not_see_what_it_guesses(tmp_path, tokenizer):
    model = bert(BertForMaskedLM, tokenizer)
    (batch, *_) = calibration_batches(written(tmp_path, "txt"), model, tokenizer, labelled=True)
    guessed = batch["labels"] != -100
    assert guessed.any()
    assert (batch["input_ids"][guessed] == tokenizer.mask_token_id).all()
    assert not (batch["labels"][guessed] == tokenizer.mask_token_id).any()


@pytest.mark.parametrize(
    ("name", "text", "labelled", "message"),
    [
        ("a.csv", "label\n1\n", False, "has no column of text, only label"),
        ("a.txt", "\n\n", False, "has no text"),
        ("a.csv", "text\none\n", True, "has no column label or labels"),
        ("a.log", b"\xff\xfe", False, "is no text in UTF-8"),
    ],
)
def test_data_that_do_not_serve_are_refused(tmp_path, tokenizer, name, text, labelled, message):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    model = bert(BertForSequenceClassification, tokenizer)
    with pytest.raises(ValueError, match=message):
        calibration_batches(str(tmp_path / name), model, tokenizer, labelled=labelled)


def table(folder: Any, *rows: dict[str, Any]) -> str:
    """Write rows to a file, and return its name."""
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder / "rows.jsonl")


def test_a_pair_is_encoded_as_in_training(tmp_path, tokenizer):
    model = bert(BertForSequenceClassification, tokenizer)
    file = table(tmp_path, {"id": "x", "one": "a b", "two": "b", "kind": 1})
    columns = Columns(("one", "two"), "kind")
    (batch,) = calibration_batches(file, model, tokenizer, labelled=True, columns=columns)
    expected = tokenizer("a b", "b", return_tensors="pt")
    assert batch["labels"].tolist() == [1]
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert torch.equal(batch[name], expected[name])
    assert expected["token_type_ids"].any()


def test_the_column_text_is_the_one_that_is_read(tmp_path, tokenizer):
    model = bert(BertForSequenceClassification, tokenizer)
    file = table(tmp_path, {"note": "b b b", "text": "a b", "label": 0})
    for labelled in (True, False):
        (batch,) = calibration_batches(file, model, tokenizer, labelled=labelled)
        assert batch["input_ids"][0].tolist() == tokenizer("a b")["input_ids"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns(), "has several columns of text: one, two. Name that with the texts"),
        (Columns(("three",)), "has no column of text three, only one, two, label"),
        (Columns(("one",), "kind"), "has no column kind, only one, two, label. Name that"),
    ],
)
def test_columns_that_are_not_clear_are_refused(tmp_path, tokenizer, columns, message):
    model = bert(BertForSequenceClassification, tokenizer)
    file = table(tmp_path, {"one": "a b", "two": "b", "label": 0})
    with pytest.raises(ValueError, match=message):
        calibration_batches(file, model, tokenizer, labelled=True, columns=columns)


@pytest.mark.parametrize("optional", [{"review"}, {"review", "kind"}])
def test_optional_columns_that_a_table_lacks_are_not_read(tmp_path, tokenizer, optional):
    model = bert(BertForSequenceClassification, tokenizer)
    columns = Columns(("review",), "kind", frozenset(optional))
    file = written(tmp_path, "txt")
    assert calibration_batches(file, model, tokenizer, columns=columns)
    rows = table(tmp_path, {"text": "a b", "label": 1})
    if "kind" not in optional:
        with pytest.raises(ValueError, match="has no column kind"):
            calibration_batches(rows, model, tokenizer, labelled=True, columns=columns)
        return
    (batch,) = calibration_batches(rows, model, tokenizer, labelled=True, columns=columns)
    assert batch["labels"].tolist() == [1]
    with pytest.raises(ValueError, match="has no column of text review"):
        calibration_batches(file, model, tokenizer, columns=Columns(("review",)))


@pytest.mark.parametrize(
    ("label", "bits"),
    [
        (["good", "long"], [0.0, 1.0, 1.0]),
        (["bad"], [1.0, 0.0, 0.0]),
        ([], [0.0, 0.0, 0.0]),
        ([0, 1, 0], [0.0, 1.0, 0.0]),
        (["good", "short"], None),
        ([0, 1], None),
        (2, None),
    ],
)
def test_several_labels_of_a_row_are_a_bit_for_each_class(tmp_path, tokenizer, label, bits):
    model = bert(BertForSequenceClassification, tokenizer)
    model.config.id2label = {0: "bad", 1: "good", 2: "long"}
    model.config.problem_type = "multi_label_classification"
    file = table(tmp_path, {"text": "a b", "label": label})
    if bits is None:
        with pytest.raises(ValueError, match=r"can have several in a row\. Give a list"):
            calibration_batches(file, model, tokenizer, labelled=True)
        return
    (batch,) = calibration_batches(file, model, tokenizer, labelled=True)
    assert batch["labels"].tolist() == [bits]
