"""A light install: torch, transformers, safetensors, and what these bring."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement

from hf_td import compact_model, prune_model
from tests.tiny import tiny_model

LIGHT = ("torch", "transformers", "safetensors")
# Only the packages named here are found. `find_spec` gives None for others, as where they are
# not installed.
BLOCKED = """
import sys
from importlib.machinery import PathFinder

class Light(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            return None
        return PathFinder.find_spec(name, path, target)

sys.meta_path = [Light if finder is PathFinder else finder for finder in sys.meta_path]
"""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def with_needs(names: tuple[str, ...]) -> set[str]:
    """Return distributions and all that they require."""
    found: set[str] = set()
    left = [normal(name) for name in names]
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        try:
            needed = [Requirement(text) for text in requires(name) or []]
        except PackageNotFoundError:
            continue
        kept = [r for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
        left += [normal(r.name) for r in kept]
    return found


def core() -> tuple[str, ...]:
    """Return what `pip install .` asks for, without an extra."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    return tuple(Requirement(text).name for text in project["project"]["dependencies"])


def blocked(installed: tuple[str, ...] = LIGHT) -> set[str]:
    """Return the modules of all distributions that an install of these packages lacks."""
    light = with_needs(installed)
    return {
        module
        for module, owners in packages_distributions().items()
        if module != "hf_td" and not {normal(owner) for owner in owners} & light
    }


def run(code: str, installed: tuple[str, ...] = LIGHT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCKED.format(blocked=blocked(installed)) + code],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_compact_model_loads(tmp_path: Path) -> None:
    assert {"accelerate", "datasets", "evaluate"} <= blocked()
    model = tiny_model("llama")
    prune_model(model, sparsity=0.5, level="unit")
    compact_model(model).save_pretrained(tmp_path)
    done = run(
        "import hf_td\n"
        "from transformers import AutoModelForCausalLM\n"
        f"print(AutoModelForCausalLM.from_pretrained({str(tmp_path)!r}).num_parameters())\n"
        "import importlib.util\n"
        "assert importlib.util.find_spec('accelerate') is None\n"
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == model.num_parameters()


def test_what_is_missing_is_named_where_it_is_needed() -> None:
    done = run("import hf_td\nhf_td.TargetedDropoutTrainer\n")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "hf_td.TargetedDropoutTrainer needs accelerate, which is not installed" in last


def test_the_command_line_names_what_is_missing(tmp_path: Path) -> None:
    words = ["hf-td", "inspect", str(tmp_path)]
    done = run(f"import sys\nsys.argv = {words!r}\nfrom hf_td.cli import main\nmain()\n")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "is not installed" in done.stderr


def test_an_install_without_extras_inspects_and_prunes(tmp_path: Path) -> None:
    assert {"zstandard", "matplotlib", "sklearn"} <= blocked(core())
    tiny_model("llama").save_pretrained(tmp_path / "model")
    small = str(tmp_path / "small")
    for words in (["inspect"], ["prune", small, "--sparsity", "0.5", "--level", "unit"]):
        argv = ["hf-td", words[0], str(tmp_path / "model"), *words[1:]]
        code = f"import sys\nsys.argv = {argv!r}\nfrom hf_td.cli import main\nmain()\n"
        done = run(code, core())
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "small" / "config.json").is_file()
