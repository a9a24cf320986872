"""--compensate makes up for what is pruned, at every sparsity and in the export."""

from __future__ import annotations

import pytest

from tests.programs import argv_of, results_of
from tests.scripts.glue_runs import run_glue


@pytest.mark.parametrize("importance", ["magnitude", "activation"])
def test_the_curve_is_compensated_for(options, importance, tmp_path):
    asked = {**options, "level": "unit", "sparsities": [0, 0.5], "importance": importance}
    run_glue.main(argv_of({**asked, "num_train_epochs": 3}))
    trained = str(tmp_path / "out" / "seed-42")
    losses = {}
    for kind in (None, "least_squares", "mean"):
        again = {**asked, "model_name_or_path": trained, "method": "none", "do_eval": True}
        again |= {"output_dir": str(tmp_path / str(kind)), "calibration_samples": 64}
        run_glue.main(argv_of({**again, **({"compensate": kind} if kind else {})}))
        (run,) = results_of(again)["runs"]
        losses[kind] = [point["metrics"]["loss"] for point in run["curve"]]
    dense, pruned = zip(*losses.values(), strict=True)
    assert len(set(dense)) == 1
    assert len(set(pruned)) == 3
