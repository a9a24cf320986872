"""Drafts have names of their own; what killed processes left of them is removed, and no more."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from hf_td import drafts
from hf_td.drafts import exchange
from hf_td.files import whole_folder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks are those of POSIX")

# Stops after the named step of an overwrite, and waits to be killed.
STOPPED = """
import sys, time
from pathlib import Path
from hf_td import files

def wait(*_):
    print("there", flush=True)
    time.sleep(100)

if sys.argv[2] == "between":
    files.exchange = lambda one, other: False
    rename = Path.rename
    Path.rename = lambda self, to: rename(self, to) if to.name == "old" else wait()
with files.whole_folder(sys.argv[1], overwrite=True) as folder:
    (folder / "new").write_text("new")
    if sys.argv[2] == "inside":
        wait()
"""


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def full(tmp_path) -> Path:
    target = tmp_path / "export"
    target.mkdir()
    (target / "old").write_text("old")
    return target


def write(target: Path) -> None:
    with whole_folder(target, overwrite=True) as folder:
        (folder / "new").write_text("new")


def stopped(target: Path, where: str) -> subprocess.Popen[str]:
    """Start an overwrite of a folder that stops there."""
    command = [sys.executable, "-c", textwrap.dedent(STOPPED), str(target), where]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def private_in(folder: Path) -> list[Path]:
    return list(folder.glob(".export.*.hf_td"))


def test_the_next_export_removes_what_a_killed_one_left(full):
    end(stopped(full, "inside"))
    assert len(private_in(full.parent)) == 1
    write(full)
    assert names_in(full) == ["new"]
    assert names_in(full.parent) == ["export"]


def test_the_next_export_brings_back_what_a_killed_one_had_moved_away(full):
    end(stopped(full, "between"))
    assert not full.exists()
    with pytest.raises(FileExistsError, match="holds something"), whole_folder(full):
        pass
    assert names_in(full) == ["old"]
    assert names_in(full.parent) == ["export"]


def test_what_a_running_process_writes_is_left_alone(full):
    process = stopped(full, "inside")
    try:
        (private,) = private_in(full.parent)
        write(full)
        assert (private / "new" / "new").read_text() == "new"
    finally:
        end(process)


def test_a_folder_that_others_made_is_left_alone(full):
    others = [".export.old", ".export.0123456789abcdef.hf_td", ".export.mine", ".export.x.hf_td"]
    for name in others:
        (full.parent / name).mkdir()
        (full.parent / name / "notes").write_text("mine")
    write(full)
    assert names_in(full.parent) == sorted([*others, "export"])
    assert all(names_in(full.parent / name) == ["notes"] for name in others)


@pytest.mark.parametrize("change", ["host", "target", "user", "link"])
def test_what_somebody_else_left_is_left_alone(full, change, monkeypatch):
    end(stopped(full, "inside"))
    (private,) = private_in(full.parent)
    if change == "host":
        monkeypatch.setattr(drafts.socket, "gethostname", lambda: "another")
    elif change == "target":
        (private / "lock").write_text((private / "lock").read_text().replace("export", "other"))
    elif change == "user":
        monkeypatch.setattr(drafts.os, "getuid", lambda: private.stat().st_uid + 1)
    else:
        moved = private.rename(private.with_name("elsewhere"))
        private.symlink_to(moved)
    write(full)
    assert (private / "new" / "new").read_text() == "new"


def test_no_two_drafts_have_one_name(full):
    with whole_folder(full, overwrite=True) as one, whole_folder(full, overwrite=True) as other:
        assert one != other
        assert len(private_in(full.parent)) == 2


def test_a_file_system_without_locks_is_written_to(full, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(drafts.fcntl, "flock", refuse)
    write(full)
    assert names_in(full) == ["new"]
    assert names_in(full.parent) == ["export"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges two names")
def test_two_names_are_exchanged_in_one_step(full, tmp_path):
    new = tmp_path / "new"
    new.mkdir()
    numbers = full.stat().st_ino, new.stat().st_ino
    assert exchange(new, full)
    assert (new.stat().st_ino, full.stat().st_ino) == numbers


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges two names")
def test_the_folder_is_there_at_every_moment_of_an_overwrite(full):
    watcher = subprocess.Popen([sys.executable, "-c", WATCH, str(full)], stdout=-1, text=True)
    assert watcher.stdout is not None
    assert watcher.stdout.readline() == "there\n"
    for _ in range(200):
        write(full)
    watcher.terminate()
    out, _ = watcher.communicate()
    assert out == "missed 0\n"


WATCH = """
import os, signal, sys
going = [True]
signal.signal(signal.SIGTERM, lambda *_: going.clear())
print("there", flush=True)
missed = 0
while going:
    try:
        os.stat(sys.argv[1])
    except FileNotFoundError:
        missed += 1
print("missed", missed)
"""


def test_an_exchange_with_nothing_is_an_error(full, tmp_path):
    with pytest.raises(FileNotFoundError, match="No such file"):
        exchange(tmp_path / "absent", full)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EINVAL])
def test_a_system_that_knows_no_exchange_says_so(full, tmp_path, code, monkeypatch):
    class Library:
        @staticmethod
        def renameat2(*_: object) -> int:
            return -1

    monkeypatch.setattr(drafts.ctypes, "CDLL", lambda *_, **__: Library)
    monkeypatch.setattr(drafts.ctypes, "get_errno", lambda: code)
    assert not exchange(tmp_path, full)


def test_an_old_folder_is_never_removed_without_a_new_one(full, monkeypatch):
    monkeypatch.setattr("hf_td.files.exchange", lambda one, other: False)
    rename, calls = Path.rename, []

    def fail_twice(self: Path, to: Path) -> Path:
        if to == full and len(calls) < 2:
            calls.append(self)
            raise OSError(errno.EIO, "the disk fails")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fail_twice)
    with pytest.raises(OSError, match="the disk fails"):
        write(full)
    (private,) = private_in(full.parent)
    assert names_in(private / "old") == ["old"]
    write(full)  # brings it back first
    assert names_in(full) == ["new"]
    assert names_in(full.parent) == ["export"]
