"""The site of the documentation builds without a warning, and has every page and public name."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import hf_td
from scripts.reference import PAGE, page

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PUBLIC = [name for name in hf_td.__all__ if not name.startswith("_")]


def pages_of(part: Any) -> list[str]:
    """Return the pages below a part of the navigation."""
    if isinstance(part, str):
        return [part]
    parts = part.values() if isinstance(part, dict) else part
    return [page for inner in parts for page in pages_of(inner)]


def test_every_page_is_in_the_navigation_once():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert sorted(pages_of(config["nav"])) == sorted(pages)


def test_the_page_of_arguments_is_that_of_the_code():
    assert PAGE.read_text() == page(), "run python scripts/reference.py"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    shutil.copytree(DOCS, folder / "docs")
    shutil.copytree(ROOT / "hf_td", folder / "hf_td", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


def test_every_page_is_built(site):
    built = {path.relative_to(site).parent.as_posix() for path in site.rglob("index.html")}
    for path in DOCS.rglob("*.md"):
        name = path.relative_to(DOCS).with_suffix("").as_posix()
        assert (re.sub(r"/?\b(index|README)$", "", name) or ".") in built, name


@pytest.mark.parametrize("name", PUBLIC)
def test_the_reference_has_every_public_name(name, site):
    html = (site / "reference" / "api" / "index.html").read_text()
    assert re.search(rf'id="hf_td\.[\w.]*{name}"', html)
