"""The laboratory stays apart from what a user installs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from setuptools import find_packages

from tests.test_imports import FILES, imported_by, name_of

ROOT = Path(__file__).parents[2]


def test_the_package_imports_nothing_that_only_a_clone_has():
    imported = {name_of(p): {name.split(".")[0] for name in imported_by(p)} for p in FILES}
    assert not [module for module, names in imported.items() if names & {"lab", "scripts", "tests"}]


def test_only_the_package_is_distributed():
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    settings = tools["setuptools"]
    assert settings["packages"].keys() == {"find"}
    packages = find_packages(str(ROOT), **settings["packages"]["find"])
    assert "hf_td.tasks" in packages
    assert {name.split(".")[0] for name in packages} == {"hf_td"}
    assert settings["package-data"].keys() <= {*packages, "*"}


@pytest.mark.slow
def test_a_wheel_holds_only_the_package(tmp_path):
    clone = tmp_path / "clone"
    left = shutil.ignore_patterns(".*", "build", "runs", "docs", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, clone, ignore=left)
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", *build, "."], cwd=clone, check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    folders = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert folders == {"hf_td", f"{wheel.name.split('-py3')[0]}.dist-info"}
