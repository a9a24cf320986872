"""A script chooses a checkpoint by the pruned model, and says when nothing was learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.programs import argv_of, results_of
from tests.scripts.glue_runs import refused, run_glue

CHOOSES: dict[str, Any] = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "load_best_model_at_end": True,
    "do_train": True,
    "do_eval": True,
    "num_train_epochs": 2,
}


def states(options: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the states of the checkpoints of the method and of the dense stage."""
    folder = Path(options["output_dir"])
    found = sorted(folder.rglob("trainer_state.json"))
    return [json.loads(file.read_text()) for file in found]


def test_the_best_checkpoint_is_that_of_the_pruned_model(options):
    run_glue.main(argv_of({**options, **CHOOSES, "level": "unit", "targeting": 0.6}))
    history = states(options)[-1]["log_history"]
    metrics = {name for entry in history for name in entry if name.startswith("eval_accuracy")}
    assert metrics == {"eval_accuracy", "eval_accuracy_at_0.5"}
    best = states(options)[-1]["best_metric"]
    assert best == max(entry.get("eval_accuracy_at_0.5", 0) for entry in history)
    # The curve prunes itself.
    assert all("accuracy_at_0.5" not in p["metrics"] for p in results_of(options)["summary"])


@pytest.mark.parametrize("method", ["none", "l1"])
def test_other_methods_choose_by_the_full_weights(method, options, capsys):
    run_glue.main(argv_of({**options, **CHOOSES, "method": method}))
    names = {name for state in states(options) for entry in state["log_history"] for name in entry}
    assert "eval_accuracy" in names
    assert not [name for name in names if "_at_" in name]
    message = refused(
        {**options, "method": method, "eval_sparsity": 0.5, "overwrite_output": True}, capsys
    )
    assert f"--eval_sparsity prunes by the ranking of targeted dropout, and method {method}" in (
        message
    )


def test_a_dense_stage_chooses_by_the_full_weights(options):
    run_glue.main(argv_of({**options, **CHOOSES, "dense_epochs": 1}))
    assert results_of(options)["runs"][0]["dense"]


def test_after_a_fixed_phase_the_curve_has_the_fixed_sparsity_alone(options, capsys):
    fixed = {**options, "fixed_sparsity": 0.75, "fixed_lr_scale": 1, "dense_epochs": 1}
    message = refused(fixed, capsys)
    assert "after a fixed phase 0.75 of the weights are zero, so the sparsities [0.0, 0.5]" in (
        message
    )
    assert "method none has none" in refused({**fixed, "method": "none"}, capsys)
    del fixed["sparsities"]
    run_glue.main(argv_of(fixed))
    results = results_of(options)
    assert [point["sparsity"] for point in results["summary"]] == [0.75]
    assert results["summary"][0]["removed_prunable"] == pytest.approx(0.75, abs=0.01)
    weights = load_file(Path(options["output_dir"]) / "seed-42" / "model.safetensors")
    up = weights["bert.encoder.layer.0.intermediate.dense.weight"]
    assert float((up == 0).float().mean()) == 0.75


@pytest.mark.parametrize(("rate", "learns"), [(1.0, False), (1e-2, True)])
def test_a_model_that_learned_nothing_is_no_result(rate, learns, options, caplog, capsys):
    settings = {"learning_rate": rate, "max_train_samples": 512, "num_train_epochs": 2}
    run_glue.main(argv_of({**options, "method": "none", **settings}))
    (run,) = results_of(options)["runs"]
    assert ("gives one answer for every row" in caplog.text) is not learns
    assert (0 in run["one_answer"]) is not learns
    assert ("one answer for every row at 0%" in capsys.readouterr().out) is not learns
