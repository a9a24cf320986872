"""What is installed: the dependencies and their extras, the wheel, an editable clone."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from transformers import BertConfig, BertTokenizer

from hf_td.analysis.plots import write_figure
from hf_td.extras import extra
from tests.tiny import tiny_model

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# `evaluate` copies this module into a cache; metrics.py beside it checks its imports.
COPIED = ROOT / "hf_td/tasks/glue/glue_metric.py"
FILES = [path for path in sorted((ROOT / "hf_td").rglob("*.py")) if path != COPIED]
# What these files draw runs inside `write_figure` or `draw_svg`, which check for matplotlib.
DRAWN = {
    ROOT / "hf_td/analysis/plots.py",
    ROOT / "hf_td/analysis/dependence_page.py",
    ROOT / "hf_td/report/charts.py",
}
DISTRIBUTIONS = packages_distributions()


def distributions(requirements: list[str]) -> set[str]:
    return {normal(Requirement(requirement).name) for requirement in requirements}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(node: ast.AST, inside: str | None = None) -> Iterator[tuple[str, str | None]]:
    """Yield each top-level package that is imported, and the extra that the import stands in."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.With):
        calls = [item.context_expr for item in node.items]
        names = [c.args[0] for c in calls if isinstance(c, ast.Call) and is_extra(c)]
        inside = next((ast.literal_eval(name) for name in names), inside)
    if isinstance(node, ast.Import):
        yield from ((alias.name.partition(".")[0], inside) for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module.partition(".")[0], inside
    for child in ast.iter_child_nodes(node):
        yield from imported(child, inside)


def is_extra(call: ast.Call) -> bool:
    return ast.unparse(call.func) == "extra"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_file_imports_is_declared_in_the_core_or_in_the_extra_that_it_names(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for package, inside in imported(tree, "plots" if path in DRAWN else None):
        if package in {*sys.stdlib_module_names, "hf_td", "triton"}:  # triton comes with CUDA
            continue
        declared = distributions([*PROJECT["dependencies"], *EXTRAS.get(inside, [])])
        names = {normal(name) for name in DISTRIBUTIONS.get(package, [package])}
        assert declared & names, f"{package} is imported, but {inside or 'the core'} has no such"


def test_the_core_has_few_dependencies():
    assert len(PROJECT["dependencies"]) <= 12
    assert distributions(PROJECT["dependencies"]) >= {
        *("accelerate", "datasets", "evaluate", "torch", "transformers")
    }


def test_a_missing_package_names_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"matplotlib is not .*pip install '\.\[plots\]'"):
        write_figure(lambda: pytest.fail("drawn"), tmp_path / "plot")
    assert not list(tmp_path.iterdir())


def test_other_errors_pass_through_an_extra():
    with pytest.raises(ImportError, match="cannot import name") as raised, extra("plots"):
        exec("from math import nonsense")
    assert "hf_td" not in str(raised.value)


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """Copy what a build needs to a folder that is called like the package."""
    folder = tmp_path_factory.mktemp("projects") / "hf_td"
    shutil.copytree(ROOT / "hf_td", folder / "hf_td", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def built(clone: Path, kind: str) -> zipfile.ZipFile:
    """Build a wheel as pip does, without an environment of its own."""
    out = clone.parent / kind
    code = f"from setuptools.build_meta import {kind} as build; build({str(out)!r})"
    out.mkdir(exist_ok=True)
    subprocess.run(
        [sys.executable, "-c", code], cwd=clone, capture_output=True, check=True, timeout=120
    )
    (wheel,) = out.glob("*.whl")
    return zipfile.ZipFile(wheel)


def test_the_wheel_has_the_package_and_nothing_else(clone):
    names = built(clone, "build_wheel").namelist()
    files = {name for name in names if not name.startswith("hf_td-")}
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "hf_td").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert files == package
    assert {"hf_td/__init__.pyi", "hf_td/py.typed"} <= files
    assert any(name.endswith("/LICENSE") for name in names)


def test_an_editable_wheel_puts_the_clone_on_the_path(clone):
    wheel = built(clone, "build_editable")
    (path,) = [name for name in wheel.namelist() if not name.startswith("hf_td-")]
    assert path.endswith(".pth")
    assert wheel.read(path).decode().strip() == str(clone)


def environment_with(folder: Path, *words: str) -> Path:
    """Make an environment, install by pip what the words say, and return its folder of programs."""
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    # What hf_td needs is found where this Python has it, and its own .pth files are not read there.
    needed = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "needed.pth").write_text("\n".join(needed))
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install"]
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--ignore-installed"]
    subprocess.run([*pip, *options, *words], check=True, timeout=300)
    return folder / "bin"


@pytest.mark.slow
def test_the_wheel_takes_a_table_to_a_checked_folder_in_three_commands(clone, tmp_path):
    wheel = built(clone, "build_wheel").filename
    programs = environment_with(tmp_path / "environment", str(wheel))
    model = tiny_model("bert")
    assert isinstance(model.config, BertConfig)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film"]
    model.save_pretrained(tmp_path / "bert")
    BertTokenizer(vocab={word: place for place, word in enumerate(words)}).save_pretrained(
        tmp_path / "bert"
    )
    rows = [f"{word} film,{label}" for word, label in (("good", "yes"), ("bad", "no"))] * 20
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *rows]))

    def hf_td(*words: str) -> str:
        done = subprocess.run(
            [programs / "hf-td", *words],
            cwd=tmp_path,
            env={"HOME": str(tmp_path), "PATH": "", "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    data = ["--model_name_or_path", "bert", "--train_file", "reviews.csv", "--use_cpu"]
    short = ["--num_train_epochs", "1", "--level", "unit", "--sparsities", "0", "0.5"]
    hf_td("train", "text", *data, *short, "--output_dir", "out")
    hf_td("prune", "out/seed-42", "small", "--sparsity", "0.5")
    found = json.loads(hf_td("check", "small", "--json"))
    assert (found["ok"], found["ways"]) == (True, ["hf_td", "remote_code"])


@pytest.mark.slow
def test_a_script_beside_an_editable_clone_imports_the_package(clone):
    python = environment_with(clone.parent / "environment", "--editable", str(clone)) / "python"
    script = clone.parent / "mine.py"
    script.write_text("import hf_td\nfrom hf_td import Schedule\nprint(hf_td.__file__)\n")
    done = subprocess.run(
        [python, script.name],
        cwd=clone.parent,
        env={},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert Path(done.stdout.strip()) == clone / "hf_td/__init__.py"
