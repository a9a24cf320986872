"""The page of a sweep, from lines that are made up here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lab.sweeps import read_report, write_page
from lab.sweeps.report import area_under

from hf_td.files import append_json_line, read_json_lines
from hf_td.tasks.errors import UsageError
from tests.programs import load_script
from tests.tables import unpadded

ENVIRONMENT = {
    "versions": {"torch": "9"},
    "hardware": {"cpu": "abacus", "torch_threads": 1, "gpus": []},
    "commit": "c0ffee",
}


def _line(cell: str, method: str, seed: int, *values: float | None, **more: Any) -> dict[str, Any]:
    shares = ((0.0, 0.0), (0.5, 0.25), (0.75, 0.375))
    curve = [
        {"sparsity": s, "removed_prunable": s, "removed_of_all": a, "metrics": {"accuracy": v}}
        for (s, a), v in zip(shares, values, strict=True)
    ]
    facts = {"task": "sst2", "split": "validation", "metric": "accuracy", "lower_is_better": False}
    rest = {"seconds": 60, "command": f"run {cell}", "environment": ENVIRONMENT}
    return {"cell": cell, "method": method, "seed": seed, "curve": curve, **facts, **rest, **more}


def _place(cell: str, method: str, seed: int = 0, **more: Any) -> dict[str, Any]:
    where = {"part": "grid", "task": "sst2", "level": "weight", "label": None, "knobs": {}}
    return {**where, "method": method, "seed": seed, "cell": cell, **more}


PLAN = [
    _place("a", "none", 0),
    _place("a", "none", 0, part="knobs", knobs={"learning_rate": 1}),
    _place("b", "targeted_dropout", 0),
    _place("d", "rewound", 0, label="rewound, slowly"),
    _place("e", "none", 0, part="knobs", knobs={"learning_rate": 2}),
    _place("c", "targeted_dropout", 1),
    _place("f", "none", 1),
    _place("g", "none", 2),
]
LINES = [
    _line("a", "none", 0, 0.9, 0.8, 0.5),
    _line("b", "targeted_dropout", 0, 0.84, 0.84, 0.8),
    _line("c", "targeted_dropout", 1, 0.86, 0.86, 0.8),
    _line("d", "targeted_dropout", 0, 0.88, 0.7, 0.6),
    _line("e", "none", 0, 0.9, 0.6, 0.3),
    {"cell": "f", "seed": 1, "error": "ValueError: no\nmore", "traceback": "secret"},
    _line("old", "none", 0, 0.1, 0.1, 0.1),
]


@pytest.fixture
def lines(tmp_path) -> Path:
    path = tmp_path / "cells.jsonl"
    append_json_line(path, {"title": "Old", "plan": [_place("old", "none")]})
    for line in LINES:
        append_json_line(path, line)
    append_json_line(path, {"title": "A title", "plan": PLAN})
    return path


@pytest.fixture
def page(lines, tmp_path) -> str:
    path = write_page(read_report([lines]), tmp_path / "new" / "page")
    return unpadded(path.read_text())


def test_rows_are_methods_and_columns_sparsities_with_the_best_in_bold(page):
    assert "| | seeds | 0% | 50% | 75% | area |" in page
    assert "| plain fine-tuning | 1 | **0.9000** | 0.8000 | 0.5000 |" in page
    assert (
        "| targeted dropout | 2 | 0.8500 ± 0.0141 ↓ | **0.8500 ± 0.0141** | **0.8000 ± 0.0000** |"
    ) in page
    assert "| rewound, slowly | 1 | 0.8800 ↓ | 0.7000 ↓ | 0.6000 ↓ |" in page


def test_what_an_earlier_plan_had_is_left_out(page):
    assert "# A title\n" in page
    assert "0.1000" not in page


def test_a_loss_within_the_spread_is_none(lines, tmp_path):
    append_json_line(lines, _line("b", "targeted_dropout", 0, 0.80, 0.84, 0.8))
    append_json_line(lines, _line("c", "targeted_dropout", 1, 0.96, 0.86, 0.8))
    text = unpadded(write_page(read_report([lines]), tmp_path / "page").read_text())
    assert "| targeted dropout | 2 | 0.8800 ± 0.1131 |" in text
    assert "targeted dropout is behind" not in text
    assert "rewound, slowly is behind at 0% (plain fine-tuning), 50% (targeted dropout)" in text


def test_the_area_is_the_mean_metric_over_the_range(page):
    # Plain: (0.9 + 0.8) / 2 * 0.5 + (0.8 + 0.5) / 2 * 0.25, over 0.75.
    assert (0.425 + 0.1625) / 0.75 == pytest.approx(0.7833, abs=1e-4)
    assert "| plain fine-tuning | 0.7833 |" in page
    assert area_under({0.5: 0.6, 0.0: 0.9, 0.75: 0.3}) == pytest.approx(0.65)
    assert area_under({0.5: 0.6}) == 0.6
    assert area_under({0.0: 0.5, 0.5: None}) is None


def test_areas_over_other_sparsities_do_not_compare(lines, tmp_path):
    one = _line("d", "targeted_dropout", 0, 0.99, 0.99, 0.99)
    append_json_line(lines, {**one, "curve": one["curve"][-1:]})
    text = unpadded(write_page(read_report([lines]), tmp_path / "page").read_text())
    assert "| rewound, slowly | 1 | | | **0.9900** | |" in text
    assert "| rewound, slowly | 0." not in text  # no row in the table of areas
    assert "The best area under the curve is that of targeted dropout." in text


def test_what_is_missing_is_said(page):
    assert "Not in the table: none seed 1: ValueError: no; none seed 2: not run yet." in page


def test_seeds_that_miss_for_one_reason_are_named_together(lines, tmp_path):
    later = [{**PLAN[0], "seed": seed, "cell": f"later {seed}"} for seed in (3, 4)]
    append_json_line(lines, {"title": "A title", "plan": [*PLAN, *later]})
    page = write_page(read_report([lines]), tmp_path / "page").read_text()
    assert "Not in the table: none seed 1: ValueError: no; none seeds 2, 3, 4: not run yet." in page


def test_the_knobs_of_a_method_have_their_spread_and_their_default(page, tmp_path):
    head = "| 75% removed | variants | default | lowest | median | highest | standard deviation |"
    assert head in page
    assert "| plain fine-tuning | 2 | 0.5000 | 0.3000 | 0.4000 | 0.5000 | 0.1414 |" in page
    assert "| plain fine-tuning | learning_rate 2 | 0.3000 |" in page
    assert "90% removed" not in page


def test_plots_are_written_beside_the_page(page, tmp_path):
    names = {path.name for path in (tmp_path / "new").iterdir()}
    stems = ("page-sst2-weight", "page-tuning-sst2-weight")
    assert names == {
        "page.md",
        "page.jsonl",
        *(f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")),
    }
    for stem in stems:
        assert f"]({stem}.png)" in page


def test_several_levels_have_a_figure_of_all_that_ran_with_several_seeds(tmp_path):
    at_units = [{**place, "level": "unit"} for place in PLAN if place["part"] == "grid"]
    for line in (*LINES, {"title": "A title", "plan": [*PLAN, *at_units]}):
        append_json_line(tmp_path / "cells.jsonl", line)
    page = write_page(read_report([tmp_path / "cells.jsonl"]), tmp_path / "page").read_text()
    assert "](page-overview.png)" in page
    drawn = (tmp_path / "page-overview.svg").read_text()
    assert "sst2, weight" in drawn
    assert "sst2, unit" in drawn
    assert "targeted dropout" in drawn
    assert "rewound" not in drawn


def test_the_page_says_where_figures_come_from_and_can_be_made_again(page, tmp_path):
    assert "- 5 cells, 5 minutes: abacus, 1 thread(s); torch 9; commit `c0ffee`" in page
    assert "# seeds 0, 1\nrun b" in page
    copy = tmp_path / "new" / "page.jsonl"
    assert "secret" not in copy.read_text()
    assert {line.get("cell") for line in read_json_lines(copy)} == {None, *"abcdef"}
    again = write_page(read_report([copy]), tmp_path / "again" / "page")
    assert unpadded(again.read_text()) == page


def test_parts_that_other_machines_ran_are_read_as_one(lines, tmp_path):
    other = tmp_path / "other.jsonl"
    append_json_line(other, _line("g", "none", 2, 0.7, 0.6, 0.5))
    text = unpadded(write_page(read_report([lines, other]), tmp_path / "page").read_text())
    assert "| plain fine-tuning | 2 | 0.8000 ± 0.1414 |" in text


def test_a_metric_that_is_not_finite_is_said(lines, tmp_path):
    append_json_line(lines, _line("d", "targeted_dropout", 0, 0.88, None, None))
    text = unpadded(write_page(read_report([lines]), tmp_path / "page").read_text())
    assert "| rewound, slowly | 1 | 0.8800 ↓ | not finite ↓ | not finite ↓ | not finite ↓ |" in text


def test_where_lower_is_better_the_lowest_is_the_best(tmp_path):
    path = tmp_path / "cells.jsonl"
    append_json_line(path, {"title": "T", "plan": [_place("a", "none"), _place("b", "other")]})
    append_json_line(path, _line("a", "none", 0, 3.0, 4.0, 9.0, lower_is_better=True))
    append_json_line(path, _line("b", "targeted_dropout", 0, 4.0, 4.5, 5.0, lower_is_better=True))
    text = unpadded(write_page(read_report([path]), tmp_path / "page").read_text())
    assert "accuracy (lower is better) on the validation split" in text
    assert "| other | 1 | 4.0000 ↓ | 4.5000 ↓ | **5.0000** |" in text


def test_no_lines_are_an_error(tmp_path):
    with pytest.raises(UsageError, match="There are no lines of a sweep"):
        read_report([tmp_path / "absent.jsonl"])
    path = tmp_path / "cells.jsonl"
    append_json_line(path, LINES[0])
    with pytest.raises(UsageError, match="hold no finished cell of a plan"):
        read_report([path])


def test_the_program_writes_the_page(lines, tmp_path, capsys):
    load_script("sweep_report").main(
        [str(lines), "--output", str(tmp_path / "p"), "--tuned_at", "0.5"]
    )
    assert "50% removed" in (tmp_path / "p.md").read_text()
    assert f"the page is {tmp_path / 'p.md'}" in capsys.readouterr().out


def test_one_sparsity_has_a_table_and_no_plot(tmp_path):
    path = tmp_path / "cells.jsonl"
    append_json_line(path, {"title": "One", "plan": [_place("a", "targeted_dropout")]})
    line = _line("a", "targeted_dropout", 0, 0.9, 0.8, 0.7)
    append_json_line(path, {**line, "curve": line["curve"][1:2]})
    text = unpadded(write_page(read_report([path]), tmp_path / "page").read_text())
    assert "| targeted dropout | 1 | **0.8000** |" in text
    assert not list(tmp_path.glob("*.png"))
