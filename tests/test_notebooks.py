"""The notebooks run, and print what they show."""

from __future__ import annotations

import json
import tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
VARIES = "varies"  # tag of a cell whose numbers depend on the machine


def code_cells(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def shown_by(cell: dict[str, Any]) -> str:
    return "".join("".join(output["text"]) for output in cell["outputs"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_was_run_from_its_beginning_and_names_no_machine(path):
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    assert all(output["output_type"] == "stream" for cell in cells for output in cell["outputs"])
    assert all(shown_by(cell) for cell in cells)
    text = path.read_text(encoding="utf-8")
    folders = ("/home/", f"{tempfile.gettempdir()}/", f"{Path.home()}/")
    assert not [folder for folder in folders if folder in text]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_prints_what_it_shows(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, cell in enumerate(code_cells(path), 1):
        with redirect_stdout(StringIO()) as out:
            exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), names)
        if VARIES in cell["metadata"].get("tags", ()):
            assert len(out.getvalue().splitlines()) == len(shown_by(cell).splitlines())
        else:
            assert out.getvalue() == shown_by(cell), f"cell {number}"
