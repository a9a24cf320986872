"""Compared experiments are curves of their own, whatever their labels are."""

from __future__ import annotations

from typing import Any

import pytest

from hf_td.tasks.experiment import comparison
from hf_td.tasks.experiment.comparison import comparison_markdown, labels_of, plot_comparison


def experiment(value: float, **settings: Any) -> dict[str, Any]:
    """Return the results of a run of targeted dropout with one seed and one sparsity."""
    point = {"sparsity": 0.9, "removed_prunable": 0.86, "removed_of_all": 0.4}
    spread = {"mean": value, "std": 0.0, "min": value, "max": value}
    environment = {
        "hardware": {"cpu": "x", "torch_threads": 1},
        "versions": {"torch": "2"},
        "commit": "c",
    }
    return {
        "task": "sst2",
        "method": "targeted_dropout",
        "metric": "accuracy",
        "summary": [{**point, "seeds": 1, "metrics": {"accuracy": spread}}],
        "runs": [{"seed": 0, "curve": [{**point, "metrics": {"accuracy": value}}]}],
        "seconds": 60,
        "command": "python run.py",
        "configuration": {"training": {"output_dir": f"runs/{value}", **settings}},
        "environment": environment,
    }


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        (
            ({"targeting": 0.5}, {"targeting": 0.75}),
            ["targeted dropout (targeting 0.5)", "targeted dropout (targeting 0.75)"],
        ),
        (({}, {}), ["targeted dropout, run 1", "targeted dropout, run 2"]),
        (
            ({"a": 1, "b": 1, "c": 1}, {"a": 2, "b": 2, "c": 2}),
            ["targeted dropout, run 1", "targeted dropout, run 2"],
        ),
    ],
)
def test_two_runs_of_one_method_have_labels_that_tell_them_apart(settings, labels):
    assert labels_of([experiment(0.1 * i, **own) for i, own in enumerate(settings)]) == labels


def test_two_runs_of_one_method_are_two_curves(monkeypatch, tmp_path):
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(comparison, "plot_results", lambda curves, *_: drawn.update(curves))
    plot_comparison([experiment(0.7), experiment(0.8)], tmp_path / "x", "title")
    assert list(drawn.values()) == [[{0.9: 0.7}], [{0.9: 0.8}]]


def test_a_page_shows_the_sparsity_that_was_asked_for_and_what_was_removed():
    page = comparison_markdown([experiment(0.7), experiment(0.8)], "title", "stem")
    page = " ".join(page.split())
    assert "sparsity asked for | of the prunable weights | of all parameters" in page
    assert "90% | 86% | 40%" in page
    assert "targeted dropout, run 2: seeds 0" in page
