import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_td.analysis import record
from hf_td.analysis.record import append_json_line, environment, read_json_lines, write_json


def test_the_environment_names_versions_hardware_and_commit():
    found = json.loads(json.dumps(environment()))
    assert set(found) == {"versions", "platform", "hardware", "commit"}
    assert {"hf_td", "torch", "transformers", "datasets", "python"} <= set(found["versions"])
    assert all(found["versions"].values())
    assert found["hardware"]["cores"] >= 1
    assert found["hardware"]["torch_threads"] >= 1
    assert found["hardware"]["ram_bytes"] > 2**28


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """Return a git repository with a package that `record` takes for hf_td."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(record, "_PACKAGE", package)
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    _git(tmp_path, "init", "--quiet")
    return package


def _git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    command = ["git", *identity, *arguments]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_is_that_of_the_repository_and_says_when_it_is_modified(repository):
    _git(repository, "add", ".")
    _git(repository, "commit", "--quiet", "--message", "first")
    head = _git(repository, "rev-parse", "HEAD")
    assert environment()["commit"] == head
    (repository / "__init__.py").write_text("changed = True\n")
    assert environment()["commit"] == f"{head}-dirty"


def test_a_package_that_the_surrounding_repository_does_not_track_has_no_commit(repository):
    (repository / "other.txt").write_text("")
    _git(repository, "add", "other.txt")
    _git(repository, "commit", "--quiet", "--message", "first")
    assert environment()["commit"] is None


def test_no_repository_and_no_git_give_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "_PACKAGE", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment()["commit"] is None
    monkeypatch.setenv("PATH", "")
    assert environment()["commit"] is None


def test_write_json_makes_folders_and_replaces_in_one_step(tmp_path):
    path = tmp_path / "a" / "b" / "results.json"
    write_json(path, {"x": 1})
    write_json(path, {"x": (1.5, math.nan, math.inf)})
    assert json.loads(path.read_text()) == {"x": [1.5, None, None]}
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"x": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"x": object()})
    assert json.loads(path.read_text()) == {"x": 1}


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_json(path, {"x": 1})

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(record, "_write_through", fail)
    with pytest.raises(OSError, match="disk full"):
        write_json(path, {"x": 2})
    assert json.loads(path.read_text()) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_written_file_has_the_usual_permissions(tmp_path):
    write_json(tmp_path / "a.json", 1)
    (tmp_path / "b.json").write_text("1")
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "b.json").stat().st_mode


def test_lines_come_back_in_order(tmp_path):
    path = tmp_path / "new" / "runs.jsonl"
    for number in range(3):
        append_json_line(path, {"run": number, "text": "a\nb"})
    assert read_json_lines(path) == [{"run": n, "text": "a\nb"} for n in range(3)]


@pytest.mark.parametrize("torn", ['{"run": 1, "val', "12", "\n"])
def test_a_torn_last_line_is_ignored_and_spoils_no_later_one(tmp_path, torn):
    path = tmp_path / "runs.jsonl"
    append_json_line(path, {"run": 0})
    with path.open("a") as file:
        file.write(torn)
    assert read_json_lines(path) == [{"run": 0}]
    append_json_line(path, {"run": 2})
    assert read_json_lines(path)[-1] == {"run": 2}
    assert read_json_lines(path)[0] == {"run": 0}


def test_an_absent_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.jsonl"):
        read_json_lines(tmp_path / "absent.jsonl")
