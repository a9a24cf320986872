"""How tests call the programs in scripts/."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from hf_td.experiment import run_program

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def load_script(name: str) -> Any:
    """The module of a script."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def argv_of(options: dict[str, Any]) -> list[str]:
    """A command line."""
    words = []
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *map(str, values)]
    return words


def short_run(folder: Path) -> dict[str, Any]:
    """Arguments that a short run of any script has in common: it prunes half of the units."""
    return {
        "output_dir": folder,
        "level": "unit",
        "sparsities": [0, 0.5],
        "disable_tqdm": True,
        "use_cpu": True,
    }


def results_of(options: dict[str, Any]) -> dict[str, Any]:
    """What a run wrote."""
    return json.loads((Path(options["output_dir"]) / "results.json").read_text())


def refusal(script: Any, options: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    """The message of a run that ends with exit code 2 and no traceback."""
    with pytest.raises(SystemExit) as exit:
        run_program(lambda: script.main(argv_of(options)))
    assert exit.value.code == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message.splitlines()[-1]
