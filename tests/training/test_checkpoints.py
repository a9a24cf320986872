"""The newest whole checkpoint counts, and an older one stays until there is a newer whole one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer

from hf_td.baselines.trainer import BaselineTrainer
from hf_td.training import ReliableTrainer, TargetedDropoutTrainer, checkpoints
from hf_td.training.checkpoints import is_whole, to_resume
from tests.tiny import tiny_model
from tests.training.models import STEPS, arguments, assert_same_weights, examples

SAVING: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2}


def run(
    folder: Path, kind: Any = TargetedDropoutTrainer, resume: Any = None, **settings: Any
) -> Any:
    args = arguments(folder, **{**SAVING, **settings})
    trainer = kind(tiny_model("bert"), args, train_dataset=examples("bert"))
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGE: dict[str, Any] = {"cut": cut, "empty": empty, "lost": Path.unlink}
FILES = ["trainer_state.json", "optimizer.pt", "model.safetensors", "activations.safetensors"]


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("file", FILES)
def test_the_newest_whole_checkpoint_is_resumed(file, how, tmp_path, caplog):
    whole = run(tmp_path)
    torn = tmp_path / f"checkpoint-{STEPS}"
    DAMAGE[how](torn / file)
    with caplog.at_level(logging.WARNING):
        resumed = run(tmp_path, resume=True)
    assert f"{torn} is passed over, since it is not whole" in caplog.text
    assert_same_weights(resumed.model, whole.model)
    assert is_whole(torn)  # written anew


@pytest.mark.parametrize("kind", [TargetedDropoutTrainer, ReliableTrainer])
def test_every_checkpoint_is_marked(kind, tmp_path):
    run(tmp_path, kind)
    assert all(is_whole(tmp_path / f"checkpoint-{step}") for step in (2, 4, 6))


def test_the_trainer_of_the_rivals_marks_and_resumes_too():
    assert issubclass(BaselineTrainer, checkpoints.WholeCheckpointsMixin)


def test_where_all_are_torn_the_user_is_told(tmp_path):
    run(tmp_path, save_steps=STEPS)
    empty(tmp_path / f"checkpoint-{STEPS}" / "trainer_state.json")
    with pytest.raises(ValueError, match=r"none of 1 is whole. Leave it out to train from the"):
        run(tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"and there is none. Leave it out"):
        run(tmp_path / "other", resume=True)


def test_a_torn_checkpoint_that_is_given_is_refused(tmp_path):
    run(tmp_path)
    given = tmp_path / "checkpoint-2"
    cut(given / "optimizer.pt")
    with pytest.raises(ValueError, match=r"checkpoint-2 is no whole checkpoint: .*True for the"):
        run(tmp_path, resume=str(given))


def test_a_checkpoint_of_the_stock_trainer_has_no_mark_and_counts(tmp_path):
    run(tmp_path, Trainer)
    newest = tmp_path / f"checkpoint-{STEPS}"
    assert not (newest / "whole.json").exists()
    assert to_resume(True, tmp_path) == str(newest)
    cut(newest / "trainer_state.json")  # it is written last
    assert to_resume(True, tmp_path) == str(tmp_path / "checkpoint-4")
    run(tmp_path, ReliableTrainer, resume=True)


@pytest.mark.parametrize("wanted", [None, False])
def test_nothing_is_resumed_unless_it_is_wanted(wanted, tmp_path):
    assert to_resume(wanted, tmp_path) is None


def test_an_older_checkpoint_is_removed_only_when_the_newer_one_is_whole(tmp_path, monkeypatch):
    there: list[tuple[str, ...]] = []
    mark = checkpoints.mark

    def look(folder: Path) -> None:
        there.append(tuple(sorted(path.name for path in tmp_path.glob("checkpoint-*"))))
        mark(folder)

    monkeypatch.setattr(checkpoints, "mark", look)
    trainer = run(tmp_path, save_total_limit=1)
    assert there == [
        ("checkpoint-2",),
        ("checkpoint-2", "checkpoint-4"),
        ("checkpoint-4", "checkpoint-6"),
    ]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-6"]
    assert trainer.args.save_total_limit == 1


def test_a_run_that_dies_in_a_save_goes_on_from_the_one_before(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    save = Trainer._save_rng_state

    def die(self: Any, folder: str) -> None:
        if self.state.global_step == 4:
            raise KeyboardInterrupt  # the weights are written, the rest is not
        save(self, folder)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save_rng_state", die)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed", save_total_limit=1)
    assert {"checkpoint-2", "checkpoint-4"} <= {p.name for p in (tmp_path / "killed").iterdir()}
    resumed = run(tmp_path / "killed", resume=True)
    assert_same_weights(resumed.model, whole.model)
