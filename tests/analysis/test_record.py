import json
import os
import subprocess
from pathlib import Path

import pytest

from hf_td.analysis import record
from hf_td.analysis.record import environment


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
