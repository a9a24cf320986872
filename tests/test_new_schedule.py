"""A new shape of a schedule is one row in hf_td/schedules.py."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import hf_td
from hf_td import Schedule, TargetedDropoutConfig
from hf_td.schedules import SHAPES
from hf_td.training.arguments import TargetedDropoutFields

PACKAGE = Path(hf_td.__file__).parent


def test_a_row_is_all_that_a_shape_needs(monkeypatch):
    monkeypatch.setitem(SHAPES, "square", lambda t: t * t)
    assert Schedule(shape="square")(0.5) == 0.25
    settings: Any = {"targeting": 0.8, "targeting_schedule": "square"}
    config = TargetedDropoutConfig(**settings)
    assert TargetedDropoutConfig.from_json(config.to_json()) == config


def test_scripts_offer_the_shapes_of_the_table():
    choices = {field.name: field.metadata.get("choices") for field in fields(TargetedDropoutFields)}
    assert choices["targeting_schedule"] == choices["drop_rate_schedule"] == sorted(SHAPES)


def test_no_other_file_lists_the_shapes():
    files = [path for path in PACKAGE.rglob("*.py") if path.name != "schedules.py"]
    listing = [path for path in files if '"cosine"' in path.read_text(encoding="utf-8")]
    assert not listing
