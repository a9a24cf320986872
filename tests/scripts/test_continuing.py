"""A run continues an earlier run that ended or was killed."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from hf_td.files import write_json
from hf_td.tasks.experiment.checkpoints import newest_whole, remove_torn
from hf_td.training.checkpoints import is_whole, mark
from tests.programs import argv_of, refusal, results_of
from tests.scripts.glue_runs import run_glue, start


def test_finished_seeds_are_kept(options, capsys):
    run_glue.main(argv_of({**options, "seeds": [0]}))
    before = results_of(options)["runs"]
    run_glue.main(argv_of({**options, "seeds": [0, 1]}))
    assert "kept from an earlier call: seeds [0]" in capsys.readouterr().out
    assert results_of(options)["runs"][:1] == before
    assert len(results_of(options)["runs"]) == 2


def test_pages_of_fewer_seeds_and_exports_of_other_weights_are_removed(options, capsys):
    run_glue.main(argv_of({**options, "seeds": [0]}))
    folder = Path(options["output_dir"])
    stale = [folder / "report.html", folder / "seed-0" / "export" / "report.html"]
    stale.append(folder / "seed-1" / "export" / "config.json")  # of results that were deleted
    for path in (*stale, card := folder / "seed-0" / "export" / "README.md"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("earlier")
    capsys.readouterr()
    run_glue.main(argv_of({**options, "seeds": [0]}))
    assert all(path.is_file() for path in stale), "nothing changed"
    run_glue.main(argv_of({**options, "seeds": [0, 1]}))
    told = capsys.readouterr().out
    assert not any(path.exists() for path in (*stale, stale[2].parent))
    assert all(str(path) in told for path in (*stale[:2], stale[2].parent))
    assert card.is_file(), "the model of seed 0 is what it was"


def test_a_run_of_a_version_with_fewer_settings_is_continued(options, capsys):
    run_glue.main(argv_of(options))
    results = results_of(options)
    del results["configuration"]["targeted_dropout"]["layers_level"]
    write_json(Path(options["output_dir"]) / "results.json", results)
    run_glue.main(argv_of(options))
    assert "all seeds are finished" in capsys.readouterr().out


def test_a_finished_run_says_so_and_how_to_begin_anew(options, capsys):
    run_glue.main(argv_of(options))
    capsys.readouterr()
    run_glue.main(argv_of(options))
    told = capsys.readouterr().out
    assert "all seeds are finished, so nothing is trained. Give --overwrite_output" in told


@pytest.mark.slow
@pytest.mark.parametrize(
    "saving", [{"checkpoint_minutes": 1e-4}, {"save_strategy": "steps", "save_steps": 10}], ids=str
)
def test_a_killed_run_goes_on_to_the_same_result(options, tmp_path, saving):
    options |= {"num_train_epochs": 100, "logging_steps": 7, **saving}
    whole = {**options, "output_dir": str(tmp_path / "whole")}
    run_glue.main(argv_of(whole))
    _kill_after_a_checkpoint(options)
    again = start(options)
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert "continuing from" in out
    (ours,), (theirs,) = results_of(options)["runs"], results_of(whole)["runs"]
    assert ours["curve"] == theirs["curve"]
    assert ours["training"] == pytest.approx(theirs["training"])
    weights = [Path(o["output_dir"]) / "seed-42" / "model.safetensors" for o in (options, whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    kept = list((Path(options["output_dir"]) / "seed-42").glob("checkpoint-*"))
    assert len(kept) == (2 if "save_strategy" in saving else 0)
    assert results_of(options)["command"].startswith("python ")


def _kill_after_a_checkpoint(options: dict[str, Any]) -> None:
    process = start(options)
    folder = Path(options["output_dir"]) / "seed-42"
    deadline = time.monotonic() + 300
    while newest_whole(folder) is None:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not results_of(options)["runs"]


def _checkpoint(folder: Path, step: int) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
    (checkpoint / "optimizer.pt").write_bytes(b"0" * 100)
    mark(checkpoint)
    return checkpoint


@pytest.mark.parametrize("torn", ["trainer_state.json", "optimizer.pt", "whole.json"])
@pytest.mark.parametrize("how", ["cut", "lost"])
def test_a_torn_checkpoint_is_passed_over(tmp_path, torn, how):
    older, newer = _checkpoint(tmp_path, 9), _checkpoint(tmp_path, 10)
    (tmp_path / "checkpoint-notes").mkdir()
    assert newest_whole(tmp_path) == newer
    damaged = newer / torn
    damaged.unlink() if how == "lost" else damaged.write_bytes(damaged.read_bytes()[:-5])
    assert not is_whole(newer)
    assert newest_whole(tmp_path) == older
    assert remove_torn(tmp_path) == [newer]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-9", "checkpoint-notes"]


def test_a_torn_checkpoint_is_removed_and_the_one_before_continued(options, capsys):
    saving = {"num_train_epochs": 3, "save_strategy": "epoch"}
    run_glue.main(argv_of({**options, **saving}))
    whole, folder = results_of(options), Path(options["output_dir"])
    state = folder / "seed-42" / "checkpoint-12" / "trainer_state.json"
    assert not (folder / "seed-42" / "checkpoint-4").exists()  # two are kept
    state.write_text(state.read_text()[:50])
    write_json(folder / "results.json", {**whole, "runs": []})
    capsys.readouterr()
    run_glue.main(argv_of({**options, **saving}))
    told = capsys.readouterr().out
    assert f"passed over and removed, since it is not whole: {state.parent}" in told
    assert f"continuing from {folder}/seed-42/checkpoint-8" in told
    assert results_of(options)["runs"][0]["curve"] == whole["runs"][0]["curve"]


def test_a_torn_checkpoint_that_is_given_is_refused(options, tmp_path, capsys):
    (tmp_path / "trainer_state.json").write_text('{"global_')
    message = refusal(run_glue, {**options, "resume_from_checkpoint": tmp_path}, capsys)
    assert "has no whole trainer_state.json" in message
    assert "`last` for the newest whole one" in message


def test_a_negative_time_between_checkpoints_is_refused(options, capsys):
    assert "is at least 0" in refusal(run_glue, {**options, "checkpoint_minutes": -1}, capsys)


def test_a_given_checkpoint_is_continued(options, tmp_path, capsys):
    saving = {"num_train_epochs": 2, "save_strategy": "epoch"}
    run_glue.main(argv_of({**options, **saving}))
    checkpoint = Path(options["output_dir"]) / "seed-42" / "checkpoint-4"
    again = {**options, **saving, "output_dir": str(tmp_path / "again")}
    run_glue.main(argv_of({**again, "resume_from_checkpoint": str(checkpoint)}))
    assert f"continuing from {checkpoint}" in capsys.readouterr().out
    assert results_of(again)["runs"][0]["curve"] == results_of(options)["runs"][0]["curve"]


def test_overwriting_replaces_what_is_ours_and_nothing_else(options, capsys):
    folder = Path(options["output_dir"])
    run_glue.main(argv_of({**options, "seeds": [5]}))
    (folder / "notes.txt").write_text("mine")
    (folder / "report.html").write_text("earlier")
    wanted = {**options, "seeds": [6], "targeting": 0.95, "overwrite_output": True}
    refusal(run_glue, {**wanted, "model_name_or_path": "no-such-model"}, capsys)
    own = {**wanted, "model_name_or_path": folder / "seed-5"}
    assert "is in the output_dir that --overwrite_output" in refusal(run_glue, own, capsys)
    assert [run["seed"] for run in results_of(options)["runs"]] == [5], "an error removes nothing"
    run_glue.main(argv_of(wanted))
    assert [run["seed"] for run in results_of(options)["runs"]] == [6]
    assert not (folder / "seed-5").exists()
    assert not (folder / "report.html").exists()
    assert (folder / "notes.txt").read_text() == "mine"
