"""The page on reliability: what holds a promise is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
NAMED = sorted({name.rstrip(".") for name in re.findall(r"\b(?:tests|scripts)/[\w/.-]+", PAGE)})


@pytest.mark.parametrize("name", NAMED)
def test_what_the_page_names_is_there(name):
    assert (ROOT / name).exists()


def test_every_row_of_a_promise_names_a_test():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and "---" not in line]
    promises = [row for row in rows if not row.startswith("| promise |")]
    assert len(promises) > 20
    assert [row for row in promises if "tests/" not in row] == []
