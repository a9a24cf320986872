"""The bounds that scripts/versions.py reads, its reading of a report, and its table."""

from __future__ import annotations

import subprocess
import sys
from io import StringIO

from rich.console import Console

from scripts.versions import SHOWN, Outcome, lowest_versions, read_report, versions_table

PROJECT = """
[project]
dependencies = ["torch>=2.13", "transformers>=5.18,<6", "numpy"]
[project.optional-dependencies]
dev = ["house[onnx]", "pyright[nodejs]>=1.1.410"]
"""
TESTS = """
import pytest
def test_right(): pass
def test_wrong(): assert False
@pytest.fixture
def broken(): raise ValueError
def test_of_a_broken_fixture(broken): pass
@pytest.mark.skip
def test_later(): pass
"""


def test_lower_bounds_become_constraints(tmp_path):
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    found = lowest_versions(tmp_path / "pyproject.toml")
    assert found == ["torch==2.13.*", "transformers==5.18.*", "pyright==1.1.410.*"]


def test_a_report_of_pytest_is_counted(tmp_path):
    (tmp_path / "test_them.py").write_text(TESTS)
    run = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--junitxml=report.xml"]
    subprocess.run(run, cwd=tmp_path, stdout=subprocess.DEVNULL, timeout=300)
    counts, failed = read_report(tmp_path / "report.xml")
    assert counts == {"passed": 1, "failed": 2, "skipped": 1}
    assert failed == ["test_them::test_wrong", "test_them::test_of_a_broken_fixture"]


def test_the_table_has_both_sides():
    sides = {
        "floor": Outcome(dict.fromkeys(SHOWN, "1.0"), {"passed": 7, "failed": 0, "skipped": 2}, []),
        "newest": Outcome(
            dict.fromkeys(SHOWN, "3.5"), {"passed": 6, "failed": 1, "skipped": 2}, []
        ),
    }
    console = Console(file=StringIO(), width=100)
    console.print(versions_table(sides))
    lines = console.file.getvalue().splitlines()  # pyright: ignore[reportAttributeAccessIssue]
    rows = [line.strip("│ ").replace("│", " ").split() for line in lines if "│" in line]
    assert ["torch", "1.0", "3.5"] in rows
    assert ["passed", "7", "6"] in rows
    assert ["failed", "0", "1"] in rows
