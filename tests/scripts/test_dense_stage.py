"""The dense stage before a method: its conditions, its files, its use as a teacher."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_td.tasks.experiment import start
from tests.programs import argv_of, load_script, refusal, results_of

run_glue = load_script("run_glue")


@pytest.fixture
def pretrained(model, options, tmp_path) -> dict[str, Any]:
    """Return options with a model without head."""
    folder = tmp_path / "pretrained"
    AutoModelForSequenceClassification.from_pretrained(model).base_model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return {**options, "model_name_or_path": str(folder)}


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForSequenceClassification.from_pretrained(folder).state_dict()


def _run(options: dict[str, Any]) -> dict[str, Any]:
    run_glue.main(argv_of(options))
    (run,) = results_of(options)["runs"]
    return run


def test_where_the_head_is_new_the_task_is_learned_first(pretrained):
    run = _run({**pretrained, "seed": 1})
    assert run["dense"] == {"model": "dense", "updates": 4, "loss": run["dense"]["loss"]}
    assert run["training"]["updates"] == 4
    seed = Path(pretrained["output_dir"]) / "seed-1"
    dense, final = _weights(seed / "dense"), _weights(seed)
    assert any(not torch.equal(dense[name], final[name]) for name in dense)


def test_the_dense_stage_is_what_plain_fine_tuning_does(pretrained, tmp_path):
    _run({**pretrained, "seed": 1})
    plain = {**pretrained, "method": "none", "seed": 1, "output_dir": str(tmp_path / "plain")}
    assert _run(plain)["dense"] is None
    dense = _weights(Path(pretrained["output_dir"]) / "seed-1" / "dense")
    alone = _weights(tmp_path / "plain" / "seed-1")
    assert all(torch.equal(dense[name], alone[name]) for name in alone)


def test_the_method_starts_from_what_was_learned(pretrained, tmp_path):
    staged = _run({**pretrained, "seed": 1})
    dense = Path(pretrained["output_dir"]) / "seed-1" / "dense"
    again = {**pretrained, "model_name_or_path": str(dense), "output_dir": str(tmp_path / "again")}
    alone = _run({**again, "seed": 1})
    assert alone["dense"] is None
    assert alone["curve"] == staged["curve"]


@pytest.mark.parametrize(
    ("changes", "updates"),
    [({"dense_epochs": 0}, None), ({"dense_epochs": 2}, 8), ({"max_steps": 3}, 3)],
)
def test_its_length_can_be_chosen(pretrained, changes, updates):
    found = _run({**pretrained, **changes})["dense"]
    assert (found and found["updates"]) == updates


def test_a_model_with_its_head_is_not_fine_tuned_first_unless_asked(options, tmp_path):
    assert _run(options)["dense"] is None
    asked = {**options, "output_dir": str(tmp_path / "asked"), "dense_epochs": 1}
    assert _run({**asked, "method": "l1"})["dense"]["updates"] == 4


def test_without_training_there_is_no_dense_stage(pretrained):
    assert _run({**pretrained, "do_eval": True})["dense"] is None


@pytest.mark.parametrize("staged", [True, False])
def test_the_model_that_it_starts_from_can_teach(options, pretrained, staged, monkeypatch):
    taught_by: list[str | None] = []
    make = start.make_trainer

    def noted(task: Any, method: str, training: Any, *rest: Any) -> Any:
        taught_by.append(training.teacher)
        return make(task, method, training, *rest)

    monkeypatch.setattr("hf_td.tasks.experiment.start.make_trainer", noted)
    monkeypatch.setattr("hf_td.tasks.experiment.run.make_trainer", noted)
    wanted = {**(pretrained if staged else options), "teacher": "start", "seed": 1}
    _run(wanted)
    dense = str(Path(wanted["output_dir"]) / "seed-1" / "dense")
    assert taught_by == ([None, dense] if staged else [str(options["model_name_or_path"])])
    assert results_of(wanted)["configuration"]["arguments"]["teacher"] == "start"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dense_epochs": -1}, "--dense_epochs is at least 0, got -1"),
        ({"dense_learning_rate": 0}, "--dense_learning_rate is positive"),
        (
            {"dense_epochs": 0, "teacher": "start"},
            "is new, so it cannot teach. Give",
        ),
    ],
)
def test_what_cannot_be_is_refused(pretrained, changes, message, capsys):
    assert message in refusal(run_glue, {**pretrained, **changes}, capsys)


def test_a_finished_dense_stage_is_not_repeated(pretrained, capsys):
    settled = {**pretrained, "seed": 1, "save_strategy": "steps", "save_steps": 2}
    first = _run(settled)
    folder = Path(pretrained["output_dir"])
    for path in (*(folder / "seed-1").glob("checkpoint-*"), folder / "results.json"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = _run({**settled, "resume_from_checkpoint": "last"})
    assert again["dense"] == {"model": "dense"}
    assert again["curve"] == first["curve"]


def test_a_dense_stage_of_other_settings_is_not_taken(pretrained, capsys):
    _run({**pretrained, "seed": 1})
    results = Path(pretrained["output_dir"]) / "results.json"
    results.write_text(results.read_text().replace('"runs": [', '"runs": [], "old": ['))
    other = {**pretrained, "seed": 1, "dense_learning_rate": 0.5, "resume_from_checkpoint": "last"}
    assert "is of another configuration" in refusal(run_glue, other, capsys)
