"""The examples of the pages run, and the files that they name exist."""

from __future__ import annotations

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_blocks_of_a_page_run_in_order_and_print_the_text_blocks(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    printed = ""
    for number, (language, text) in enumerate(BLOCK.findall(page.read_text())):
        if language == "python":
            with redirect_stdout(StringIO()) as out:
                exec(compile(text, f"{page.name}, block {number}", "exec"), names)
            printed = out.getvalue()
        elif language == "text":
            assert printed == text


def test_the_first_screen_has_code() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert lines.index("```python") < 45


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_named_on_a_page_exist(page: Path) -> None:
    text = page.read_text()
    scripts = set(re.findall(r"\bscripts/\w+\.\w+", text))
    links = {link for link in re.findall(r"\]\(([^)#:]+)\)", text) if "://" not in link}
    missing = [s for s in scripts if not (ROOT / s).exists()]
    missing += [link for link in links if not (page.parent / link).exists()]
    assert not missing
