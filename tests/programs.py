"""Helpers that call the programs in scripts/."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_td.tasks.errors import run_program

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def load_script(name: str) -> Any:
    """Return the module of a script."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def argv_of(options: dict[str, Any]) -> list[str]:
    """Return a command line."""
    words = []
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *map(str, values)]
    return words


def short_run(folder: Path) -> dict[str, Any]:
    """Return arguments of a short run of any task: it prunes half of the units."""
    return {
        "output_dir": folder,
        "level": "unit",
        "sparsities": [0, 0.5],
        "disable_tqdm": True,
        "use_cpu": True,
    }


def in_two_processes(script: str, options: dict[str, Any]) -> str:
    """Return the output of a script in two processes, as torchrun starts them."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, SCRIPTS / f"{script}.py", *argv_of({**options, "ddp_backend": "gloo"})],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def measured_the_same_by_two_processes(script: str, options: dict[str, Any]) -> None:
    """Train in two processes, and compare their metrics with those of one process."""
    told = in_two_processes(script, options)
    (run,) = results_of(options)["runs"]
    assert told.count("50.0% removed") == 1, "one of the processes tells"
    folder = Path(options["output_dir"])
    again = {
        **options,
        "model_name_or_path": folder / run["model"],
        "output_dir": folder.with_name("again"),
        "do_eval": True,
    }
    again.pop("config_overrides", None)
    load_script(script).main(argv_of(again))
    (alone,) = results_of(again)["runs"]
    for point, same in zip(run["curve"], alone["curve"], strict=True):
        # Losses are means over processes, whatever each has to do.
        found, expected = (
            {name: value for name, value in each["metrics"].items() if name != "loss"}
            for each in (point, same)
        )
        assert found == pytest.approx(expected, rel=1e-3)


def results_of(options: dict[str, Any]) -> dict[str, Any]:
    """Return the results of a run."""
    return json.loads((Path(options["output_dir"]) / "results.json").read_text())


def refusal(script: Any, options: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the message of a run that ends with exit code 2 and no traceback."""
    with pytest.raises(SystemExit) as exit:
        run_program(lambda: script.main(argv_of(options)))
    assert exit.value.code == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message.splitlines()[-1]
