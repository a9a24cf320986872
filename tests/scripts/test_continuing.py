"""A run continues an earlier run that ended or was killed."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.programs import argv_of, results_of
from tests.scripts.glue_runs import run_glue, start


def test_finished_seeds_are_kept(options, capsys):
    run_glue.main(argv_of({**options, "seeds": [0]}))
    before = results_of(options)["runs"]
    run_glue.main(argv_of({**options, "seeds": [0, 1]}))
    assert "kept from an earlier call: seeds [0]" in capsys.readouterr().out
    assert results_of(options)["runs"][:1] == before
    assert len(results_of(options)["runs"]) == 2


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_result(options, tmp_path):
    options |= {"num_train_epochs": 12, "save_strategy": "steps", "save_steps": 10}
    whole = {**options, "output_dir": str(tmp_path / "whole")}
    run_glue.main(argv_of(whole))
    _kill_after_a_checkpoint(options)
    again = start(options)
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert "continuing from" in out
    (ours,), (theirs,) = results_of(options)["runs"], results_of(whole)["runs"]
    assert ours["curve"] == theirs["curve"]
    assert results_of(options)["command"].startswith("python ")


def _kill_after_a_checkpoint(options: dict[str, Any]) -> None:
    process = start(options)
    checkpoint = Path(options["output_dir"]) / "seed-42" / "checkpoint-20" / "trainer_state.json"
    deadline = time.monotonic() + 300
    while not checkpoint.is_file():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not results_of(options)["runs"]


def test_a_given_checkpoint_is_continued(options, tmp_path, capsys):
    saving = {"num_train_epochs": 2, "save_strategy": "epoch"}
    run_glue.main(argv_of({**options, **saving}))
    checkpoint = Path(options["output_dir"]) / "seed-42" / "checkpoint-4"
    again = {**options, **saving, "output_dir": str(tmp_path / "again")}
    run_glue.main(argv_of({**again, "resume_from_checkpoint": str(checkpoint)}))
    assert f"continuing from {checkpoint}" in capsys.readouterr().out
    assert results_of(again)["runs"][0]["curve"] == results_of(options)["runs"][0]["curve"]


def test_overwriting_replaces_what_is_ours_and_nothing_else(options):
    folder = Path(options["output_dir"])
    run_glue.main(argv_of({**options, "seeds": [5]}))
    (folder / "notes.txt").write_text("mine")
    run_glue.main(argv_of({**options, "seeds": [6], "targeting": 0.95, "overwrite_output": True}))
    assert [run["seed"] for run in results_of(options)["runs"]] == [6]
    assert not (folder / "seed-5").exists()
    assert (folder / "notes.txt").read_text() == "mine"
