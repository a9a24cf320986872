"""scripts/run_classification.py on tables with columns and labels of any kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

from hf_td.tasks.experiment.parsing import parse_arguments
from hf_td.tasks.models import find_model
from hf_td.tasks.text_classification.arguments import TextClassificationArguments
from hf_td.tasks.text_classification.task import text_classification_task
from tests.programs import argv_of, load_script, refusal, results_of

run_classification = load_script("run_classification")

LABELS: dict[str, list[Any]] = {
    "words": ["good", "bad"],
    "numbers": [-5, 3],
    "scores": [0.5, 2.5],
    "several": [["a", "b"], []],
}


@pytest.fixture
def wanted(options, tmp_path) -> Any:
    """Return a function that writes rows, and returns the arguments of a run on them."""
    del options["task_name"]

    def write(kind: str) -> dict[str, Any]:
        texts = ["the author laughs", "the authors laughs"]
        rows = [{"Review text": texts[i % 2], "what?": LABELS[kind][i % 2]} for i in range(40)]
        path = tmp_path / "own.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        columns = {"text_column": "Review text", "label_column": "what?"}
        more = {"ignore_mismatched_sizes": True, "sparsities": [0, 0.5], "train_file": str(path)}
        return {**options, **columns, **more}

    return write


@pytest.mark.parametrize(
    ("kind", "task", "metrics", "names"),
    [
        ("words", "text classification", {"accuracy", "macro_f1", "f1"}, ["bad", "good"]),
        ("numbers", "text classification", {"accuracy", "macro_f1", "f1"}, ["-5", "3"]),
        ("scores", "text regression", {"pearson", "spearmanr", "rmse"}, ["what?"]),
        (
            "several",
            "multi-label text classification",
            {"micro_f1", "macro_f1", "accuracy"},
            ["a", "b"],
        ),
    ],
)
def test_a_run_measures_own_data(wanted, kind, task, metrics, names):
    asked = wanted(kind)
    run_classification.main(argv_of(asked))
    results = results_of(asked)
    assert results["task"] == task
    assert results["split"] == "held-out 10 % of the training"
    (run,) = results["runs"]
    assert set(run["curve"][1]["metrics"]) == {"loss", *metrics}
    config = AutoModelForSequenceClassification.from_pretrained(
        Path(asked["output_dir"]) / "seed-42"
    ).config
    assert list(config.id2label.values()) == names
    assert config.label2id == {name: i for i, name in enumerate(names)}


def test_an_error_is_the_better_the_lower(wanted):
    asked = {**wanted("scores"), "metric": "rmse"}
    run_classification.main(argv_of(asked))
    assert results_of(asked)["metric"] == "rmse"
    assert results_of(asked)["lower_is_better"]


def test_a_card_names_the_data_and_the_labels(wanted):
    asked = {**wanted("words"), "level": "unit", "export_sparsity": 0.5}
    run_classification.main(argv_of(asked))
    export = Path(asked["output_dir"]) / "seed-42" / "export"
    card = (export / "README.md").read_text()
    assert "own.jsonl" in card
    assert "| labels | bad, good |" in card
    assert json.loads((export / "config.json").read_text())["label2id"] == {"bad": 0, "good": 1}


def test_bad_input_is_one_message(wanted, capsys):
    message = refusal(run_classification, {**wanted("words"), "text_column": "text"}, capsys)
    assert "has no column text. It has Review text, what?. Name the column with" in message


def test_the_names_of_the_arguments_of_transformers_are_taken(wanted):
    asked = wanted("words")
    asked["label_column_name"] = asked.pop("label_column")
    asked["metric_name"] = "macro_f1"
    asked["validation_file"] = asked["train_file"]
    arguments = parse_arguments(argv_of(asked), TextClassificationArguments)
    task = text_classification_task(arguments, find_model(arguments.model))
    assert (task.metric, task.split) == ("macro_f1", "validation")
