"""Files and folders are written as a whole or not at all."""

from __future__ import annotations

import json
import math
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers.utils.hub import CHAT_TEMPLATE_DIR

from hf_td import files
from hf_td.files import (
    append_json_line,
    check_free,
    folder_bytes,
    naming,
    read_json,
    read_json_lines,
    read_json_object,
    read_records,
    replacing,
    whole_folder,
    write_json,
    write_text,
)


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "parent" / "export"


@pytest.fixture
def full(target) -> Path:
    target.mkdir(parents=True)
    (target / "old").write_text("old")
    return target


def write(target: Path, *, overwrite: bool = False) -> None:
    with whole_folder(target, overwrite=overwrite) as folder:
        (folder / "new").write_text("new")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_folder_appears_when_the_block_ends(target):
    with whole_folder(target) as folder:
        (folder / "new").write_text("new")
        assert not target.exists()
        assert folder.stat().st_dev == target.parent.stat().st_dev
    assert names_in(target) == ["new"]
    assert names_in(target.parent) == ["export"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o755), (0o077, 0o700)])
def test_a_new_folder_has_the_permissions_that_the_umask_gives(target, mask, mode):
    before = os.umask(mask)
    try:
        write(target)
    finally:
        os.umask(before)
    assert target.stat().st_mode & 0o777 == mode
    assert (target / "new").stat().st_mode & 0o777 == mode & 0o666


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_file_that_a_library_hides_has_the_permissions_that_the_umask_gives(target, tmp_path):
    tensors = {"a": np.ones(2)}
    before = os.umask(0o022)
    try:
        with whole_folder(target) as folder:
            save_file(tensors, folder / "a.safetensors")
        with replacing(tmp_path / "b.safetensors") as draft:
            save_file(tensors, draft)
    finally:
        os.umask(before)
    for path in (target / "a.safetensors", tmp_path / "b.safetensors"):
        assert path.stat().st_mode & 0o777 == 0o644
        assert (load_file(path)["a"] == tensors["a"]).all()


def test_an_empty_folder_is_filled(target):
    target.mkdir(parents=True)
    write(target)
    assert names_in(target) == ["new"]


def test_a_folder_that_holds_something_is_refused(full):
    with pytest.raises(FileExistsError, match=r"export holds something .*overwrite=True"):
        write(full)
    assert names_in(full) == ["old"]


def test_what_is_no_export_is_refused_even_to_be_overwritten(full):
    (full / "model").mkdir()
    with pytest.raises(FileExistsError, match="holds folders, such as model"):
        write(full, overwrite=True)
    assert names_in(full) == ["model", "old"]


def test_an_export_with_chat_templates_is_overwritten(full):
    (full / CHAT_TEMPLATE_DIR).mkdir()
    write(full, overwrite=True)
    assert names_in(full) == ["new"]


@pytest.mark.parametrize("named", [".", None])
def test_the_working_folder_is_refused_even_to_be_overwritten(full, named, monkeypatch):
    monkeypatch.chdir(full)
    with pytest.raises(FileExistsError, match="the folder that this program runs in"):
        write(Path(named or full), overwrite=True)
    assert names_in(full) == ["old"]


def test_a_file_is_refused_even_to_be_overwritten(target):
    target.parent.mkdir()
    target.write_text("file")
    with pytest.raises(FileExistsError, match="export is a file, not a folder"):
        check_free(target, overwrite=True)
    assert target.read_text() == "file"


def test_an_old_folder_is_replaced_as_a_whole(full):
    write(full, overwrite=True)
    assert names_in(full) == ["new"]
    assert names_in(full.parent) == ["export"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_folder_and_nothing_else(full, error):
    def interrupt() -> None:
        with whole_folder(full, overwrite=True) as folder:
            (folder / "new").write_text("new")
            raise error("stop")

    with pytest.raises(error, match="stop"):
        interrupt()
    assert names_in(full) == ["old"]
    assert names_in(full.parent) == ["export"]


def test_an_error_leaves_no_new_folder(target):
    with pytest.raises(RuntimeError, match="stop"), whole_folder(target):
        raise RuntimeError("stop")
    assert names_in(target.parent) == []


@pytest.fixture
def two_renames(monkeypatch) -> None:
    """A system that cannot exchange two names in one step."""
    monkeypatch.setattr(files, "exchange", lambda one, other: False)


@pytest.mark.usefixtures("two_renames")
def test_without_an_exchange_an_old_folder_is_replaced_by_two_renames(full):
    write(full, overwrite=True)
    assert names_in(full) == ["new"]
    assert names_in(full.parent) == ["export"]


@pytest.mark.usefixtures("two_renames")
def test_a_rename_that_fails_brings_the_old_folder_back(full, monkeypatch):
    rename = Path.rename

    def fail_for_the_new(self: Path, to: Path) -> Path:
        if to == full and self.name != "old":
            raise OSError("no rename")
        return rename(self, to)

    monkeypatch.setattr(files.Path, "rename", fail_for_the_new)
    with pytest.raises(OSError, match="no rename"):
        write(full, overwrite=True)
    assert names_in(full) == ["old"]
    assert names_in(full.parent) == ["export"]


@pytest.mark.usefixtures("two_renames")
def test_what_somebody_else_wrote_between_the_two_renames_is_kept(full, monkeypatch):
    rename = Path.rename

    def let_others_write(self: Path, to: Path) -> Path:
        moved = rename(self, to)
        if self == full:
            monkeypatch.undo()
            write(full, overwrite=True)
        return moved

    def write_late() -> None:
        with whole_folder(full, overwrite=True) as folder:
            (folder / "late").write_text("late")
            monkeypatch.setattr(files.Path, "rename", let_others_write)

    with pytest.raises(FileExistsError, match="export was written by another process meanwhile"):
        write_late()
    assert names_in(full) == ["new"]
    assert names_in(full.parent) == ["export"]


def test_what_somebody_else_wrote_before_the_block_ended_is_replaced_only_if_it_may_be(target):
    def write_late(*, overwrite: bool) -> None:
        with whole_folder(target, overwrite=overwrite) as folder:
            (folder / "late").write_text("late")
            write(target, overwrite=overwrite)

    with pytest.raises(FileExistsError, match="export was written by another process meanwhile"):
        write_late(overwrite=False)
    assert names_in(target) == ["new"]
    write_late(overwrite=True)
    assert names_in(target) == ["late"]
    assert names_in(target.parent) == ["export"]


def test_folders_that_came_while_the_export_was_made_are_not_deleted(full):
    def write_late() -> None:
        with whole_folder(full, overwrite=True):
            (full / "notes").mkdir()

    with pytest.raises(FileExistsError, match="holds folders, such as notes"):
        write_late()
    assert names_in(full) == ["notes", "old"]


def test_relative_names_are_fine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("here"))
    assert names_in(tmp_path / "here") == ["new"]


def test_bytes_are_counted_in_all_folders_below(full):
    (full / "below").mkdir()
    (full / "below" / "more").write_text("12345")
    assert folder_bytes(full) == 8


def test_what_a_link_points_to_is_replaced_and_the_link_stays(full):
    link = full.with_name("link")
    link.symlink_to(full)
    for _ in range(2):
        write(link, overwrite=True)
        assert link.is_symlink()
        assert names_in(full) == ["new"]
        assert names_in(full.parent) == ["export", "link"]


# Files.


def test_text_is_written_as_it_is(tmp_path):
    write_text(tmp_path / "new" / "page.md", "ä\r\nb\n")
    assert (tmp_path / "new" / "page.md").read_bytes() == b"\xc3\xa4\r\nb\n"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "page.md"
    path.write_text("old")

    def interrupt() -> None:
        with replacing(path) as draft:
            draft.write_text("new")
            assert path.read_text() == "old"
            raise error("stop")

    with pytest.raises(error, match="stop"):
        interrupt()
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["page.md"]


def test_what_a_link_to_a_file_points_to_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "page.md")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "page.md").read_text() == "new"


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

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_json(path, {"x": 2})
    assert json.loads(path.read_text()) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


@pytest.fixture
def small_files() -> Iterator[None]:
    """A limit of 1,000 bytes for each file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.usefixtures("small_files")
def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "runs.jsonl").touch()
    with pytest.raises(OSError, match=r"File too large: '.*/page\.md'"):
        write_text(tmp_path / "page.md", "x" * 2000)
    with pytest.raises(OSError, match=r"File too large: '.*/export'"):
        write_large(tmp_path / "export")
    with pytest.raises(OSError, match=r"File too large: '.*/weights'"):
        write_tensors(tmp_path / "weights")
    assert names_in(tmp_path) == ["runs.jsonl"]


def write_large(target: Path) -> None:
    with whole_folder(target) as folder:
        (folder / "large").write_text("x" * 2000)


def write_tensors(path: Path) -> None:
    with replacing(path) as draft:
        save_file({"x": np.ones(2000)}, draft)


def test_another_error_of_the_system_keeps_its_text(tmp_path):
    with pytest.raises(ConnectionError, match=r"^no answer$"), whole_folder(tmp_path / "export"):
        raise ConnectionError("no answer")


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


DAMAGED = [b"", b"{", b"\xff", b"[" * 100_000, b"9" * 5000]


@pytest.mark.parametrize("content", [*DAMAGED, b"[]", b"3", b"null"])
def test_a_file_that_is_no_mapping_is_named_and_the_cure_is_told(content, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json should be .*copy or write it again") as raised:
        read_json_object(path)
    assert len(str(raised.value)) < 1000
    if content in DAMAGED:
        with pytest.raises(ValueError, match=r"a\.json should be JSON: "):
            read_json(path)


def test_a_missing_or_large_mapping_is_not_read(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(FileNotFoundError, match=r"there is no a\.json in"):
        read_json_object(path)
    write_json(path, {"a": "b" * 100})
    assert read_json_object(path, most=200) == {"a": "b" * 100}
    with pytest.raises(ValueError, match=r"a\.json should have at most 99 bytes"):
        read_json_object(path, most=99)


@pytest.mark.parametrize("value", [3, [], None, {"b": 1}])
def test_a_line_that_is_no_record_is_shown(value, tmp_path):
    path = tmp_path / "runs.jsonl"
    append_json_line(path, {"a": 1})
    assert read_records(path, "a") == [{"a": 1}]
    append_json_line(path, value)
    with pytest.raises(ValueError, match=r"each line of .*runs\.jsonl should be a mapping with"):
        read_records(path, "a")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_the_error_of_torchs_writer_on_a_full_disk_names_the_path():
    checkpoint = Path("runs") / "checkpoint-3"
    with pytest.raises(OSError, match="is there room on the disk") as told, naming(checkpoint):
        torch.save(torch.ones(9), "/dev/full")
    assert told.value.filename == str(checkpoint)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="mat1"), naming(Path("x")):
        torch.ones(2, 3).mm(torch.ones(2, 3))
