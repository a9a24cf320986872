"""Names of cells outlive new defaults and retired settings."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from lab.sweeps import naming, plan_cells, read_sweep

from hf_td.config import TargetedDropoutConfig
from hf_td.files import read_json_lines
from hf_td.recipes import RECIPES
from hf_td.schedules import Schedule
from tests.lab.sweeps.grids import cells_of
from tests.programs import SCRIPTS

RESULTS = SCRIPTS.parent / "docs" / "results"
# A hash of the names of the cells of a sweep that has no lines in docs/results.
UNRECORDED = {"defaults": "2eacc0c950a2041c81071287949fe2ce2d251fd674fc841958e83b05513ea4d9"}


@pytest.fixture(autouse=True)
def _nothing_kept():
    _forget()
    yield
    _forget()


def _forget() -> None:
    naming.parse_words.cache_clear()
    naming._experiment.cache_clear()


@pytest.fixture
def as_it_is() -> None:
    """Change nothing."""


@pytest.fixture
def new_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Change all defaults of the recipes."""
    new: dict[str, Any] = {
        "targeting": 0.9,
        "targeting_schedule": Schedule(sampled=0.1),
        "drop_rate": 0.9,
        "drop_rate_schedule": Schedule(shape="linear", end=0.6),
        "importance": "magnitude",
    }
    old = RECIPES["fine_tuning"]
    changed = replace(old, weight={**old.weight, **new}, unit={**old.unit, **new})
    monkeypatch.setitem(RECIPES, "fine_tuning", changed)


@pytest.fixture
def retired(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove `resting` and `targeting_off`, and add a setting that no sweep gives."""
    real = TargetedDropoutConfig.to_dict

    def to_dict(config: TargetedDropoutConfig) -> dict[str, Any]:
        found = {**real(config), "later": 3}
        found.pop("resting", None)
        found["targeting_schedule"].pop("off", None)
        return found

    gone = {"resting", "targeting_off"}
    monkeypatch.setattr(TargetedDropoutConfig, "to_dict", to_dict)
    monkeypatch.setattr(naming, "_SETTINGS", naming._SETTINGS - gone)


@pytest.mark.parametrize("world", ["as_it_is", "new_recipes", "retired"])
@pytest.mark.parametrize("name", ["glue", "heldout", "defaults"])
def test_the_cells_of_a_sweep_keep_their_names(name, world, request):
    request.getfixturevalue(world)
    sweep = read_sweep(SCRIPTS / "sweeps" / f"{name}.yaml", {"dataset_name": "glue"})
    planned = set(plan_cells(sweep))
    if name in UNRECORDED:
        assert hashlib.sha256(" ".join(sorted(planned)).encode()).hexdigest() == UNRECORDED[name]
    else:
        lines = read_json_lines(RESULTS / f"{name}.jsonl")
        assert planned == {line["cell"] for line in lines if "cell" in line}


def test_the_sparsities_that_were_the_default_are_in_no_name(tmp_path):
    grid: dict[str, Any] = {"tasks": {"sst2": {"task_name": "sst2"}}, "seeds": [0]}
    grid["levels"] = {"weight": {"level": "weight"}}
    given = {"none": {"sparsities": [0, 0.5, 0.75, 0.9]}}
    assert list(cells_of(tmp_path, **grid, methods=given)) == list(
        cells_of(tmp_path, **grid, methods={"none": {}})
    )


def test_a_retired_setting_that_a_sweep_gives_still_counts(tmp_path, request):
    common = {"method": "targeted_dropout", "targeting_off": 0.15}
    methods = {
        "as_then": common,
        "other": {**common, "resting": 0},
        "spelled_out": {**common, "resting": 0.5},
    }
    tasks = {"sst2": {"task_name": "sst2"}}
    grid = {"methods": methods, "tasks": tasks, "seeds": [0]}
    before = cells_of(tmp_path, **grid)
    request.getfixturevalue("retired")
    _forget()
    after = cells_of(tmp_path, **grid)
    # At the weight level it was .5, at the unit level 0.
    assert len(before) == 4
    assert list(after) == list(before)
