"""The registry of kinds of tasks."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

import hf_td.tasks
from hf_td.tasks.registry import TASKS, run_task


def test_every_folder_with_a_task_is_a_kind():
    folders = {path.parent.name for path in Path(hf_td.tasks.__path__[0]).glob("*/task.py")}
    assert folders == set(TASKS)


@pytest.mark.parametrize("kind", TASKS.values(), ids=TASKS)
def test_defaults_are_of_training_arguments(kind):
    assert is_dataclass(kind.data)
    assert set(kind.defaults) <= {field.name for field in fields(kind.training)}


@pytest.mark.parametrize("name", TASKS)
def test_help_lists_the_data_arguments_of_a_kind(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        run_task(name, ["--help"], f"Runs {name}.")
    shown = capsys.readouterr().out
    assert f"Runs {name}." in shown
    assert all(f"--{field.name} " in shown for field in fields(TASKS[name].data))
