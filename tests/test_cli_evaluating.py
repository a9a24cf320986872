"""A loss that may not be exceeded, and wishes that are missed, on the command line."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
)

from hf_td.analysis.timing import Quartiles
from hf_td.cli.columns import columns_of
from hf_td.tasks.data.calibration import Columns, calibration_batches
from hf_td.wishes.measures import Measures
from tests import test_cli_amounts as amounts
from tests.test_cli import run
from tests.test_cli_amounts import loaded
from tests.tiny import TEXT
from tests.vocabulary.tokenizers_of import CORPUS, FAMILIES

# Fixtures.
reader, texts, unchecked = amounts.reader, amounts.texts, amounts.unchecked


def perplexity(model: Any, ids: torch.Tensor) -> float:
    """Return the perplexity of rows of full length."""
    with torch.no_grad():
        chances = model(ids).logits[:, :-1].log_softmax(-1)
    return math.exp(-chances.gather(-1, ids[:, 1:, None]).mean())


@pytest.mark.parametrize("held_out", [False, True], ids=["own file", "rest of calibration"])
def test_a_language_model_loses_no_more_perplexity_than_wanted(
    monkeypatch,
    capsys,
    reader,
    texts,
    tmp_path,
    held_out,
):
    data = ("--evaluate", texts)
    if held_out:
        data = ("--calibration", texts, "--calibration-rows", 4)
    words = ("--max-loss", "0.02", *data, "--evaluate-rows", 8, "--length", 16)
    assert run(monkeypatch, "prune", reader, tmp_path / "out", *words) == 0
    printed = capsys.readouterr().out
    assert f"max_loss is of the perplexity on 8 rows of {texts}" in printed
    assert "max_loss: wanted 2.00% lost, got" in printed
    tokenizer, dense = AutoTokenizer.from_pretrained(reader), loaded(reader)
    small = loaded(tmp_path / "out")
    assert small.num_parameters() < dense.num_parameters()
    options: dict[str, Any] = {"rows": 8, "length": 16, "skip": 4 if held_out else 0}
    (batch,) = calibration_batches(str(texts), dense, tokenizer, **options)
    ids = batch["input_ids"]
    assert ids.shape == (8, 16)
    assert perplexity(small, ids) <= 1.0201 * perplexity(dense, ids)


def answers(folder: Path) -> list[str]:
    """Return the labels that a classifier gives the texts, by name."""
    return [("no", "yes")[int(one > 0)] for one in leanings(folder)]


@torch.no_grad()
def leanings(folder: Path) -> torch.Tensor:
    """Return by how much each text is rather yes than no."""
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    logits = [model(**tokenizer(text, return_tensors="pt")).logits[0] for text in CORPUS]
    return torch.stack([yes - no for no, yes in logits])


@pytest.fixture
def classifier(tmp_path) -> Path:
    """A classifier that gives its texts both labels, with a tokenizer."""
    tokenizer, folder = FAMILIES["wordpiece"](), tmp_path / "classifier"
    torch.manual_seed(0)
    names: dict[str, Any] = {"id2label": {0: "no", 1: "yes"}}
    model = BertForSequenceClassification(
        BertConfig(**{**TEXT, "vocab_size": len(tokenizer)}, **names)
    )
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    with torch.no_grad():
        # Between two texts, so that none of them is on the edge.
        model.classifier.bias[1] -= leanings(folder).quantile(0.5)
    model.save_pretrained(folder)
    return folder


def test_a_classifier_loses_no_more_accuracy_than_wanted(monkeypatch, capsys, classifier, tmp_path):
    before = answers(classifier)
    assert {*before} == {"no", "yes"}
    rows = [{"text": text, "label": name} for text, name in zip(CORPUS, before, strict=True)]
    file = tmp_path / "labelled.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    words = ("--max-loss", "0.4", "--evaluate", file, "--form", "padded")
    assert run(monkeypatch, "prune", classifier, tmp_path / "out", *words) == 0
    right = sum(a == b for a, b in zip(answers(tmp_path / "out"), before, strict=True))
    assert right >= 0.6 * len(CORPUS)
    printed = capsys.readouterr().out
    assert f"max_loss is of the accuracy on {len(CORPUS)} rows" in printed
    lost = 1 - right / len(CORPUS)
    assert f"got {lost:.2%} lost (of a metric of 1)" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--max-loss", "0.1"), "--max-loss needs data to measure the loss on. Add --evaluate"),
        (("--sparsity", "0.5", "--evaluate", "a.txt"), "--evaluate is for --max-loss"),
        (("--max-loss", "2", "--evaluate", "{texts}"), "in [0, 1); got 2"),
        (("--max-loss", "0.1", "--calibration", "{texts}"), "has no text left after the 128 that"),
    ],
)
def test_a_loss_without_its_data_is_refused(
    monkeypatch,
    capsys,
    reader,
    texts,
    tmp_path,
    words,
    message,
):
    words = [str(word).replace("{texts}", str(texts)) for word in words]
    assert run(monkeypatch, "prune", reader, tmp_path / "out", *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_labels_that_the_model_does_not_know_are_refused(monkeypatch, capsys, classifier, tmp_path):
    file = tmp_path / "labelled.csv"
    file.write_text("text,label\na b,maybe\n")
    words = ("--max-loss", "0.1", "--evaluate", file)
    assert run(monkeypatch, "prune", classifier, tmp_path / "out", *words) == 2
    assert "the label 'maybe' is none of BertForSequenceClassification" in capsys.readouterr().err


def test_a_model_without_a_metric_is_refused(monkeypatch, capsys, texts, tmp_path):
    tokenizer = FAMILIES["wordpiece"]()
    BertModel(BertConfig(**{**TEXT, "vocab_size": len(tokenizer)})).save_pretrained(
        tmp_path / "bert"
    )
    tokenizer.save_pretrained(tmp_path / "bert")
    words = ("--max-loss", "0.1", "--evaluate", texts)
    assert run(monkeypatch, "prune", tmp_path / "bert", tmp_path / "out", *words) == 2
    assert "there is no metric for BertModel: perplexity is for" in capsys.readouterr().err


@pytest.mark.parametrize(("got", "code"), [(1.19, 0), (1.1, 3)])
def test_a_speed_that_the_last_measurement_misses_has_an_exit_code(
    monkeypatch,
    capsys,
    reader,
    tmp_path,
    got,
    code,
):
    def by_parameters(measures: Any) -> float:
        return measures._cut().num_parameters() / measures.whole.num_parameters()

    measure = Measures.latency

    def slower(measures: Any) -> Any:
        found = measure(measures)
        times = {"dense": Quartiles(got, got, got), "compact": Quartiles(1.0, 1.0, 1.0)}
        return replace(found, **times)

    monkeypatch.setattr(Measures, "time", by_parameters)
    monkeypatch.setattr(Measures, "latency", slower)
    words = ("--speedup", "1.2", "--length", "8", "--threads", "1")
    assert run(monkeypatch, "prune", reader, tmp_path / "out", *words) == code
    printed = capsys.readouterr()
    assert (tmp_path / "out/config.json").is_file()
    assert f"wanted 1.20 times as fast, got {got:.2f} times as fast" in printed.out
    missed = f"short of the wish ({got:.2f} ms to 1.00 ms"
    assert (missed in printed.err) == (code == 3)
    assert ("out is written all the same" in printed.err) == (code == 3)


def test_a_classifier_is_evaluated_on_the_columns_of_its_training(
    monkeypatch, capsys, classifier, tmp_path
):
    """The columns of `hf-td train text` beside the model, and of the options before those."""
    folder = tmp_path / "trained" / "seed-1"
    shutil.copytree(classifier, folder)
    names = {"text_column": "one", "text_pair_column": "two", "label_column": ["kind"]}
    results = {"configuration": {"arguments": names}, "runs": []}
    (folder.parent / "results.json").write_text(json.dumps(results))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder)
    pairs = list(itertools.pairwise(CORPUS))
    with torch.no_grad():
        logits = [model(**tokenizer(*pair, return_tensors="pt")).logits[0] for pair in pairs]
    found = ["no" if one.argmax() == 0 else "yes" for one in logits]
    rows = [
        {"id": str(number), "one": one, "two": two, "kind": label}
        for number, ((one, two), label) in enumerate(zip(pairs, found, strict=True))
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    words = ("--evaluate", file, "--rounds", 2, "--json")
    assert run(monkeypatch, "curve", folder, 0, *words) == 0
    assert metric_in(capsys) == 1
    options = ("--text-column", "one", "--text-column", "two", "--label-column", "kind")
    assert run(monkeypatch, "curve", classifier, 0, *words, *options) == 0
    assert metric_in(capsys) == 1
    assert run(monkeypatch, "curve", folder, 0, *words, "--text-column", "id") == 0
    assert metric_in(capsys) < 1
    assert run(monkeypatch, "curve", classifier, 0, *words, "--label-column", "kind") == 2
    assert "has several columns of text: id, one, two" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "columns"),
    [
        ({}, Columns()),
        ({"task_name": "mrpc"}, Columns()),
        ({"text_column": "review"}, Columns(("review",))),
        ({"text_pair_column": "reply"}, Columns(("text", "reply"))),
        ({"label_column": "stars"}, Columns((), "stars")),
        ({"label_column": ["a", "b"]}, Columns()),
        (None, Columns()),
    ],
)
def test_the_columns_of_a_training_are_those_that_it_names(tmp_path, arguments, columns):
    configuration = {} if arguments is None else {"arguments": arguments}
    (tmp_path / "results.json").write_text(json.dumps({"configuration": configuration}))
    folder = tmp_path / "seed-1"
    folder.mkdir()
    recorded = {*columns.text, *([columns.label] if columns.label else [])}
    assert columns_of(str(folder), None, None) == columns._replace(optional=frozenset(recorded))
    assert columns_of(str(folder), ["own"], "kind") == Columns(("own",), "kind")


@pytest.mark.parametrize(
    ("inside", "model", "found"),
    [
        ("out/seed-1", ".", True),
        ("out", "seed-1/", True),
        ("", "out/seed-1/checkpoint-3", True),
        ("", "out/seed-1/dense", True),
        ("", "out/seed-1/dense/far", False),
        ("out", "somebody/model", False),  # on the Hub
    ],
)
def test_the_results_of_a_run_are_near(monkeypatch, tmp_path, inside, model, found):
    for name in ("checkpoint-3", "dense/far"):
        (tmp_path / "out/seed-1" / name).mkdir(parents=True)
    results = {"configuration": {"arguments": {"text_column": "review"}}}
    (tmp_path / "out/results.json").write_text(json.dumps(results))
    monkeypatch.chdir(tmp_path / inside)
    expected = Columns(("review",), None, frozenset({"review"})) if found else Columns()
    assert columns_of(model, None, None) == expected


def metric_in(capsys: Any) -> float:
    """Return the metric of the first point that `hf-td curve --json` printed."""
    (value,) = json.loads(capsys.readouterr().out)["curve"][0]["metrics"].values()
    return value


def test_several_labels_of_a_row_have_an_f1(monkeypatch, capsys, classifier, tmp_path):
    model: Any = AutoModelForSequenceClassification.from_pretrained(classifier)
    model.config.problem_type = "multi_label_classification"
    model.save_pretrained(classifier)
    tokenizer = AutoTokenizer.from_pretrained(classifier)
    rows = [{"text": text, "label": ["yes"]} for text in CORPUS]
    file = tmp_path / "several.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    with torch.no_grad():
        logits = [model(**tokenizer(text, return_tensors="pt")).logits[0] for text in CORPUS]
    given = torch.stack(logits) > 0
    hits, true = int(given[:, 1].sum()), len(CORPUS)
    words = ("--evaluate", file, "--rounds", 2, "--json")
    assert run(monkeypatch, "curve", classifier, 0, *words) == 0
    assert metric_in(capsys) == pytest.approx(2 * hits / (int(given.sum()) + true))
