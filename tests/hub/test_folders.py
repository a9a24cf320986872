"""Folders are written as a whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_td.hub import folders
from hf_td.hub.folders import check_free, folder_bytes, whole_folder


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
        assert folder.parent == target.parent
    assert names_in(target) == ["new"]
    assert names_in(target.parent) == ["export"]
    assert target.stat().st_mode & 0o777 == 0o755


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
    (full / "additional_chat_templates").mkdir()
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


def test_a_rename_that_fails_brings_the_old_folder_back(full, monkeypatch):
    rename = Path.rename

    def fail_for_the_new(self: Path, to: Path) -> Path:
        if to == full and not self.name.endswith(".old"):
            raise OSError("no rename")
        return rename(self, to)

    monkeypatch.setattr(folders.Path, "rename", fail_for_the_new)
    with pytest.raises(OSError, match="no rename"):
        write(full, overwrite=True)
    assert names_in(full) == ["old"]
    assert names_in(full.parent) == ["export"]


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
            monkeypatch.setattr(folders.Path, "rename", let_others_write)

    with pytest.raises(FileExistsError, match="export was written by somebody else meanwhile"):
        write_late()
    assert names_in(full) == ["new"]
    assert names_in(full.parent) == ["export"]


def test_what_somebody_else_wrote_before_the_block_ended_is_replaced_only_if_it_may_be(target):
    def write_late(*, overwrite: bool) -> None:
        with whole_folder(target, overwrite=overwrite) as folder:
            (folder / "late").write_text("late")
            write(target, overwrite=overwrite)

    with pytest.raises(FileExistsError, match="export was written by somebody else meanwhile"):
        write_late(overwrite=False)
    assert names_in(target) == ["new"]
    write_late(overwrite=True)
    assert names_in(target) == ["late"]
    assert names_in(target.parent) == ["export"]


def test_what_a_killed_process_left_does_not_matter(full):
    left = full.with_name(".export.old")
    left.mkdir()
    (left / "older").write_text("older")
    write(full, overwrite=True)
    assert names_in(full) == ["new"]
    assert names_in(full.parent) == ["export"]


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
