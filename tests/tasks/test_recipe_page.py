"""The guide's table of defaults has the values that the scripts and the Trainer have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hf_td import TargetedDropoutArguments
from hf_td.tasks.experiment.arguments import recipe

GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"
ROWS = {
    cells[0].split("`")[1]: cells[1:4]
    for cells in (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in GUIDE.read_text().splitlines()
        if line.startswith("| `") and line.count("|") == 6
    )
}


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
