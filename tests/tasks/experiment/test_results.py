"""Tables and plots of metrics of any size and direction."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from rich.console import Console

from hf_td.files import write_json
from hf_td.tasks.experiment.comparison import comparison_markdown, comparison_table, plot_comparison
from hf_td.tasks.experiment.results import cell, curves_of, original_name, results_table, summarise


def _results(method: str, *values: float | None) -> dict[str, Any]:
    """Return results of two sparsities, with one value at the higher sparsity for each seed."""
    runs = [{"seed": s, "curve": [_point(0, 3.0), _point(0.5, v)]} for s, v in enumerate(values)]
    hardware = {"cpu": "a", "torch_threads": 1}
    return {
        "task": "language modelling",
        "method": method,
        "split": "test",
        "metric": "perplexity",
        "lower_is_better": True,
        "summary": summarise(runs),
        "runs": runs,
        "seconds": 60,
        "command": "python run.py",
        "environment": {"hardware": hardware, "versions": {}, "commit": "b"},
    }


def _point(sparsity: float, value: float | None) -> dict[str, Any]:
    shares = {"removed_prunable": sparsity, "removed_of_all": sparsity / 2}
    return {"sparsity": sparsity, **shares, "metrics": {"loss": 1.0, "perplexity": value}}


def _shown(table: Any) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    return console.file.getvalue()  # pyright: ignore


def test_a_model_that_experiments_made_is_called_as_the_one_that_they_began_with(tmp_path):
    made = {"first": "hub/some-model", "second": str(tmp_path / "first" / "seed-0")}
    for name, model in made.items():
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "results.json", {"model": model})
    for model in ("hub/some-model", *(str(tmp_path / name / "seed-0") for name in made)):
        assert original_name(model) == "some-model"
    assert original_name(str(tmp_path / "mine")) == "mine"


def test_results_that_name_each_other_end(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        model = str(tmp_path / other / "seed-0")
        write_json(tmp_path / name / "results.json", {"model": model})
    assert original_name(str(tmp_path / "a" / "seed-0")) == "seed-0"


@pytest.mark.parametrize("content", ["", "[]", "{", '{"model": 3}', "[" * 100_000])
def test_results_that_are_none_name_no_other_model(content, tmp_path):
    (tmp_path / "results.json").write_text(content)
    assert original_name(str(tmp_path / "mine")) == "mine"


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        (0.83333, 0.00512, "0.8333 ± 0.0051"),
        (17.123, 0.456, "17.12 ± 0.46"),
        (54321.6, 98.7, "54,322 ± 99"),
    ],
)
def test_a_cell_has_as_many_decimals_as_its_mean_calls_for(mean, std, expected):
    assert cell({"mean": mean, "std": std}, seeds=2) == expected
    assert cell({"mean": mean, "std": std}, seeds=1) == expected.split()[0]


def test_tables_say_where_lower_is_better():
    results = _results("none", 20.0, 22.0)
    assert "perplexity (lower is better)" in _shown(results_table(results))
    title = " ".join(_shown(comparison_table([results])).split())
    assert "perplexity (lower is better) after pruning" in title
    page = comparison_markdown([results], "A title", "plot")
    assert "perplexity (lower is better) on the test split" in page
    assert "| 50% | 25% | 21.00 ± 1.41 |" in " ".join(page.split())


@pytest.mark.parametrize("value", [math.inf, math.nan, None])
def test_what_is_not_finite_is_said_and_left_out_of_plots(value, tmp_path):
    results, fine = _results("none", 20.0, value), _results("targeted_dropout", 5.0)
    assert "not finite" in _shown(results_table(results))
    assert curves_of(results) == [{0: 3.0, 0.5: 20.0}, {0: 3.0}]
    for path in plot_comparison([results, fine], tmp_path / "plot", "A title"):
        assert path.is_file()
    write_json(tmp_path / "results.json", results)
    assert "null" in (tmp_path / "results.json").read_text()


def test_results_from_before_the_direction_was_recorded_are_read():
    old = _results("none", 20.0)
    del old["lower_is_better"]
    assert "(lower is better)" not in _shown(results_table(old))
