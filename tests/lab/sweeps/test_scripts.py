"""The scripts of a sweep, on a tiny random model and the built-in task."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_td.files import read_json_lines
from hf_td.tasks.errors import UsageError
from tests.programs import SCRIPTS, load_script

sweep = load_script("sweep")
run_glue = load_script("run_glue")

TINY = "hidden_size=32,num_hidden_layers=2,num_attention_heads=4,intermediate_size=64"
GRID: dict[str, Any] = {
    "common": {
        "model_name_or_path": "new:bert",
        "config_overrides": TINY,
        "tokenizer_name": "builtin-minilm",
        "max_train_samples": 64,
        "max_eval_samples": 32,
        "num_train_epochs": 1,
        "use_cpu": True,
        "disable_tqdm": True,
    },
    "tasks": {"acceptability": {"task_name": "acceptability"}},
    "levels": {
        "weight": {"level": "weight", "sparsities": [0, 0.75]},
        "unit": {"level": "unit", "sparsities": [0, 0.5]},
    },
    "methods": {
        "none": {
            "levels": {
                "unit": {
                    "model_name_or_path": "{method=none level=weight}",
                    "do_eval": True,
                    "config_overrides": None,
                }
            }
        },
        "targeted_dropout": {"importance": "magnitude"},
    },
    "seeds": [5],
}


@pytest.fixture
def grid(tmp_path) -> list[str]:
    """Return arguments of the script for a sweep that takes seconds."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(GRID, sort_keys=False))
    return [str(path), "--output", str(tmp_path / "out")]


def _lines(grid: list[str]) -> list[dict[str, Any]]:
    lines = read_json_lines(Path(grid[-1]) / "cells.jsonl")
    return [line for line in lines if "cell" in line]


def test_an_option_that_is_repeated_adds_to_the_earlier_ones(grid):
    options = sweep.parse([*grid, "--set", "a=1", "--set", "b=2", "c=3", "--only", "seed=5"])
    assert options.set == ["a=1", "b=2", "c=3"]
    assert options.only == ["seed=5"]
    assert sweep.parse(grid).set == []


def test_a_cell_is_what_run_glue_measures_and_both_curves_are_of_one_model(grid, tmp_path):
    sweep.main([*grid, "--only", "method=none"])
    weight, unit = _lines(grid)
    for line in (weight, unit):
        assert {"command", "configuration", "environment", "seconds"} <= line.keys()
        assert line["environment"]["commit"] is not None
        assert line["seed"] == 5
    assert weight["training"]["updates"] == 2
    assert (unit["training"], [p["sparsity"] for p in unit["curve"]]) == ({}, [0, 0.5])
    assert unit["curve"][0]["metrics"] == weight["curve"][0]["metrics"]
    words = weight["command"].split()[2:]
    words[-1] = str(tmp_path / "alone")
    run_glue.main(words)
    alone = yaml.safe_load((tmp_path / "alone" / "results.json").read_text())
    assert alone["runs"][0]["curve"] == weight["curve"]
    assert alone["configuration"] == weight["configuration"]


def test_models_that_nobody_needs_are_not_kept(grid):
    sweep.main([*grid, "--only", "level=weight"])
    kept = {path.parts[-2] for path in Path(grid[-1]).rglob("model.safetensors")}
    (plain,) = [line["cell"] for line in _lines(grid) if line["method"] == "none"]
    folders = {path.name for path in (Path(grid[-1]) / "cells").iterdir()}
    assert kept == {"seed-5"}
    assert folders == {plain}


def test_what_a_killed_cell_left_is_continued_or_cleared(grid):
    sweep.main([*grid, "--only", "level=weight", "method=none"])
    (line,) = _lines(grid)
    folder = Path(grid[-1]) / "cells" / line["cell"]
    (folder / "seed-5").rename(folder / "lost")
    sweep.main([*grid, "--only", "method=none"])  # the other level needs the model
    again = _lines(grid)
    assert [entry["cell"] for entry in again[:2]] == [line["cell"]] * 2
    assert again[0]["curve"] == again[1]["curve"] == line["curve"]
    assert len(again) == 3
    assert (folder / "seed-5" / "model.safetensors").is_file()
    for path in [*folder.glob("results.json"), Path(grid[-1]) / "cells.jsonl"]:
        path.unlink()
    sweep.main([*grid, "--only", "level=weight", "method=none"])  # killed before its first record
    assert _lines(grid)[0]["curve"] == line["curve"]


@pytest.mark.slow
def test_a_killed_sweep_goes_on(grid):
    command = [sys.executable, str(SCRIPTS / "sweep.py"), *grid]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("running") and "targeted_dropout" in line:
                time.sleep(0.2)  # in the middle of the second cell
                os.kill(process.pid, signal.SIGKILL)
                break
    assert len(_lines(grid)) == 1
    sweep.main(grid)
    lines = _lines(grid)
    assert len(lines) == len({line["cell"] for line in lines}) == 4
    assert not any("error" in line for line in lines)


def test_a_broken_cell_does_not_stop_the_others(grid, capsys):
    path = Path(grid[0])
    broken = {**GRID, "methods": {"none": {"tokenizer_name": "./absent"}, "targeted_dropout": {}}}
    path.write_text(yaml.safe_dump(broken))
    for _ in range(2):  # a failed cell stays one until it is tried again
        with pytest.raises(SystemExit, match="1"):
            sweep.main([*grid, "--only", "level=weight"])
    assert (
        "failed, UsageError: the model folder './absent' does not exist" in capsys.readouterr().out
    )
    lines = {line["command"].split()[-1]: line for line in _lines(grid)}
    assert sorted("error" in line for line in lines.values()) == [False, True]


def test_limits_filters_and_the_list(grid, capsys):
    sweep.main([*grid, "--limit", "1"])
    sweep.main([*grid, "--minutes", "0"])
    assert len(_lines(grid)) == 1
    capsys.readouterr()
    sweep.main([*grid, "--list"])
    states = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert states == ["finished", "open", "open", "open"]
    with pytest.raises(UsageError, match="--only method=l0 selects nothing"):
        sweep.main([*grid, "--only", "method=l0"])
    with pytest.raises(UsageError, match="NAME=VALUE is expected"):
        sweep.main([*grid, "--only", "method"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray's own
def test_the_same_file_runs_on_ray(grid):
    import ray

    try:
        sweep.main([*grid, "--ray", "local"])
    finally:
        ray.shutdown()
    lines = _lines(grid)
    assert len(lines) == 4
    assert not [line["error"] for line in lines if "error" in line]
    here = Path(grid[0]).with_name("here")
    sweep.main([grid[0], "--output", str(here)])
    ours = {line["cell"]: line["curve"] for line in _lines(["", str(here)])}
    assert {line["cell"]: line["curve"] for line in lines} == ours
