"""Results of other data than today's are not taken for those of today's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hf_td.tasks.errors import UsageError
from hf_td.tasks.experiment.fingerprints import fingerprints
from hf_td.tasks.experiment.output import finished_runs
from hf_td.tasks.experiment.parsing import parse_arguments
from hf_td.tasks.text_classification.arguments import TextClassificationArguments

RUNS = [{"seed": 1}]


def call(folder: Path, *more: str) -> Any:
    words = ["--model_name_or_path", "m", "--output_dir", str(folder / "out"), *more]
    return parse_arguments(words, TextClassificationArguments)


def finished(arguments: Any, **record: Any) -> None:
    """Write the results of an earlier call."""
    folder = Path(arguments.training.output_dir)
    folder.mkdir()
    results = {"configuration": arguments.configuration(), "runs": RUNS, **record}
    (folder / "results.json").write_text(json.dumps(results))


@pytest.mark.parametrize("kind", ["train_file", "validation_file", "transfer_set", "dataset_name"])
def test_runs_on_data_that_have_changed_are_refused(kind, tmp_path):
    data = tmp_path / "data.csv"
    data.write_text("text,label\na,0\n")
    arguments = call(tmp_path, f"--{kind}", str(data))
    finished(arguments, data=fingerprints(arguments))
    assert finished_runs(arguments, fingerprints(arguments)) == RUNS
    data.touch()
    assert finished_runs(arguments, fingerprints(arguments)) == RUNS
    data.write_text("text,label\nb,0\n")
    with pytest.raises(UsageError, match=f"the files of --{kind} have changed since"):
        finished_runs(arguments, fingerprints(arguments))
    arguments.curve.overwrite_output = True
    assert finished_runs(arguments, fingerprints(arguments)) == []


@pytest.mark.parametrize("name", ["model_name_or_path", "teacher"])
def test_runs_of_models_that_have_changed_are_refused(name, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    arguments = call(tmp_path, f"--{name}", str(model))
    assert fingerprints(arguments).keys() == {name}
    finished(arguments, data=fingerprints(arguments))
    (model / "README.md").write_text("a card")
    (model / "checkpoint-3").mkdir()
    shutil.copytree(model, tmp_path / "copy")
    shutil.rmtree(model)
    (tmp_path / "copy").rename(model)  # of another time
    assert finished_runs(arguments, fingerprints(arguments)) == RUNS
    (model / "model.safetensors").write_bytes(b"retrained")
    with pytest.raises(UsageError, match=f"the files of --{name} have changed since"):
        finished_runs(arguments, fingerprints(arguments))
    (Path(arguments.training.output_dir) / "results.json").unlink()
    Path(arguments.training.output_dir).rmdir()
    finished(arguments, data={})  # as older results
    assert finished_runs(arguments, fingerprints(arguments)) == RUNS


def test_the_files_of_a_folder_count(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.csv").write_text("text,label\na,0\n")
    arguments = call(tmp_path, "--dataset_name", str(tmp_path / "set"))
    before = fingerprints(arguments)
    assert fingerprints(arguments) == before
    (tmp_path / "set" / "train.csv").write_text("text,label\nb,0\n")
    changed = fingerprints(arguments)
    assert changed != before
    (tmp_path / "set" / "a.png").write_bytes(b"1")
    assert fingerprints(arguments) not in (before, changed)


def test_older_results_and_data_on_the_hub_have_none(tmp_path):
    data = tmp_path / "data.csv"
    data.write_text("text,label\na,0\n")
    arguments = call(tmp_path, "--train_file", str(data))
    finished(arguments)
    assert finished_runs(arguments, fingerprints(arguments)) == RUNS
    assert fingerprints(call(tmp_path, "--dataset_name", "somebody/rows")) == {}
