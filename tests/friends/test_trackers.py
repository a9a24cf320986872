"""What the Trainer logs reaches the trackers: the loss, and the rates of every update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hf_td import TargetedDropoutTrainer
from tests.friends.helpers import friend
from tests.tiny import tiny_model
from tests.training.models import arguments, examples

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the libraries, about each other
]
LOGGED = ("loss", "targeting", "drop_rate", "dropped_share")


def train(tracker: str, folder: Path, **more: Any) -> list[dict[str, float]]:
    """Train for four updates with a tracker, and return the log of each."""
    args = arguments(
        folder / "out", max_steps=4, report_to=tracker, level="unit", run_name="tiny", **more
    )
    trainer = TargetedDropoutTrainer(tiny_model("bert"), args, train_dataset=examples("bert", 16))
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len({entry["targeting"] for entry in logged}) > 1
    return logged


def expected(logged: list[dict[str, float]], name: str) -> Any:
    return pytest.approx([entry[name] for entry in logged], rel=1e-5)


def test_tensorboard_has_the_loss_and_the_rates(tmp_path, monkeypatch):
    reading = friend("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    logged = train("tensorboard", tmp_path)
    events = reading.EventAccumulator(str(tmp_path / "events")).Reload()
    for name in LOGGED:
        scalars = events.Scalars(f"train/{name}")
        assert [scalar.step for scalar in scalars] == [1, 2, 3, 4]
        assert [scalar.value for scalar in scalars] == expected(logged, name)


def test_wandb_has_the_loss_and_the_rates_with_no_network(tmp_path, monkeypatch):
    wandb = friend("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    rows: list[dict[str, Any]] = []
    log = wandb.Run.log
    monkeypatch.setattr(
        wandb.Run, "log", lambda run, row, *a, **k: rows.append(row) or log(run, row, *a, **k)
    )
    logged = train("wandb", tmp_path)
    settings = dict(wandb.run.config)
    wandb.finish()
    for name in LOGGED:
        found = [row[f"train/{name}"] for row in rows if f"train/{name}" in row]
        assert found == expected(logged, name)
    assert (settings["level"], settings["targeting"]) == ("unit", 0.75)
    assert list(tmp_path.rglob("run-*.wandb"))


def test_trackio_has_the_loss_and_the_rates(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    storage = friend("trackio.sqlite_storage").SQLiteStorage
    logged = train("trackio", tmp_path, project="tiny")
    rows = storage.get_logs("tiny", "tiny")
    for name in LOGGED:
        found = [row[f"train/{name}"] for row in rows if f"train/{name}" in row]
        assert found == expected(logged, name)
