"""The tables of defaults and of recipes have the values that the scripts and the Trainer have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hf_td import TargetedDropoutArguments
from hf_td.recipes import RECIPES
from hf_td.tasks.experiment.arguments import recipe

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "recipes.md"
ROWS = {
    cells[0].split("`")[1]: cells[1:4]
    for cells in (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.read_text().splitlines()
        if line.startswith("| `") and line.count("|") == 6
    )
}


NAMED = {
    line.split("`")[1]: [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.read_text().splitlines()
    if line.startswith("| `") and line.count("|") == 9
}


def test_every_recipe_has_its_row():
    assert list(NAMED) == list(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_the_row_of_a_recipe_has_its_values(name):
    row = RECIPES[name]
    _, use, targetings, growth, rate, ramp, importance, source = NAMED[name]
    assert (use, source) == (row.help, row.source)
    levels = (row.weight, row.unit)
    assert [float(one) for one in targetings.split(",")] == [one["targeting"] for one in levels]
    for number, one in enumerate(levels):
        assert float(rate) == one["drop_rate"]
        assert importance.strip("`") == one["importance"]
        for cell, schedule in (
            (growth, one["targeting_schedule"]),
            (ramp, one["drop_rate_schedule"]),
        ):
            words = cell.split("; units: ")[number if "; units: " in cell else 0]
            assert schedule.shape in words
            assert (schedule.end == 1) or f"until {schedule.end:.0%}".replace("%", " %") in words
            assert (schedule.off > 0) == ("dense updates" in words)


@pytest.mark.parametrize("name", [n for n in ROWS if n != "warmup_steps"])
def test_the_defaults_of_a_setting(name, tmp_path):
    plain = TargetedDropoutArguments(str(tmp_path), use_cpu=True)
    for column, level in enumerate(("weight", "unit")):
        settings: dict[str, Any] = {"level": level, **recipe("targeted_dropout", level)}
        config = TargetedDropoutArguments(str(tmp_path), use_cpu=True, level=level)
        known = {"targeting": config.targeted_dropout().targeting}
        value = {**known, "untargeted_lr_scale": plain.untargeted_lr_scale, **settings}[name]
        assert float(ROWS[name][column]) == value
    if name != "targeting":
        assert float(ROWS[name][2]) == getattr(plain, name)


def test_the_table_is_there_and_has_the_warm_up():
    assert len(ROWS) == 6
    assert [float(cell) for cell in ROWS["warmup_steps"]] == [0.06, 0.06, 0]
    assert recipe()["warmup_steps"] == 0.06
