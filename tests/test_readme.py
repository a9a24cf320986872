"""The examples of the pages run, and the files that they name exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from hf_td import register_family

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(page: Path) -> str:
    """Return the path of a page inside of the repository."""
    return page.relative_to(ROOT).as_posix()


BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


# Pages with python whose output they show.
TOLD = [
    page for page in PAGES if {"python", "text"} <= {b[0] for b in BLOCK.findall(page.read_text())}
]


@pytest.fixture(autouse=True)
def forget_families() -> Iterator[None]:
    """Remove the description that a block of the docs registers."""
    yield
    register_family("bitnet")


def run(blocks: list[tuple[str, str]], page: str) -> None:
    """Run the python blocks in one namespace; a text block is what the one before it printed."""
    names: dict[str, object] = {}
    printed = ""
    for number, (language, text) in enumerate(blocks):
        if language == "python":
            with redirect_stdout(StringIO()) as out:
                exec(compile(text, f"{page}, block {number}", "exec"), names)
            printed = out.getvalue()
        elif language == "text":
            assert printed == text


@pytest.mark.parametrize("page", TOLD, ids=name_of)
def test_the_python_blocks_of_a_page_run_in_order_and_print_the_text_blocks(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(BLOCK.findall(page.read_text()), name_of(page))


# The README tells one story; who uses a page copies one block.
ALONE = [
    (name_of(page), text)
    for page in PAGES
    if page.name != "README.md"
    for language, text in BLOCK.findall(page.read_text())
    if language == "python"
]


@pytest.mark.parametrize(("page", "text"), ALONE, ids=[text[:60] for _, text in ALONE])
def test_a_block_of_the_docs_runs_alone(
    page: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run([("python", text)], page)


def test_the_first_screen_has_code() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert lines.index("```python") < 45


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_files_named_on_a_page_exist(page: Path) -> None:
    text = page.read_text()
    scripts = set(re.findall(r"(?<![\w/])scripts/\w+\.\w+", text))
    links = {link for link in re.findall(r"\]\(([^)#:]+)\)", text) if "://" not in link}
    missing = [s for s in scripts if not (ROOT / s).exists()]
    named = set(re.findall(r"(?<![\w/])tests/[\w/]+(?:\.py)?", text))
    missing += [test for test in named if not (ROOT / test).exists()]
    missing += [link for link in links if not (page.parent / link).exists()]
    assert not missing
