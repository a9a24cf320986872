"""A process that is killed before any of its file operations leaves the old content or the new."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from hf_td import files
from hf_td.files import append_json_line, read_json_lines, whole_folder, write_json
from tests.faults.injecting import kills

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="fork and signals of POSIX")


def folder_of(target: Path, text: str) -> None:
    with whole_folder(target, overwrite=True) as draft:
        for name in ("config.json", "weights"):
            (draft / name).write_text(text)


@pytest.mark.parametrize("exchanges", [True, False])
def test_folders(exchanges, tmp_path, monkeypatch):
    if not exchanges:
        monkeypatch.setattr(files, "exchange", lambda one, other: False)
    target = tmp_path / "export"
    folder_of(target, "old")
    missing = 0
    for number in kills(lambda: folder_of(target, "new")):
        if not target.exists():
            missing += 1
            with pytest.raises(FileExistsError, match="holds something"), whole_folder(target):
                pass  # any later export brings it back
        found = {path.name: path.read_text() for path in target.iterdir()}
        assert found.keys() == {"config.json", "weights"}, number
        assert len(set(found.values())) == 1, number
        folder_of(target, "old")
        for left in tmp_path.iterdir():  # of a process that had no lock yet, or no more
            assert left == target or not [p for p in left.rglob("*") if p.stat().st_size]
            if left != target:
                shutil.rmtree(left)
    assert {path.read_text() for path in target.iterdir()} == {"new"}
    assert bool(missing) is not exchanges


def test_files(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, "old")
    for _ in kills(lambda: write_json(path, "new")):
        assert path.read_text() in ('"old"\n', '"new"\n')
        write_json(path, "old")
    assert path.read_text() == '"new"\n'


def test_lines(tmp_path):
    path = tmp_path / "a" / "runs.jsonl"
    for _ in kills(lambda: append_json_line(path, {"run": 1})):
        append_json_line(path, {"run": 0})
        assert all(line in ({"run": 0}, {"run": 1}) for line in read_json_lines(path))
        shutil.rmtree(path.parent)
    assert read_json_lines(path)[-1] == {"run": 1}
