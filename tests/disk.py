"""A record of what a power cut would leave: which content and which names are on the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hf_td import drafts, files


class Disk:
    """Notes what is flushed, and refuses a rename of anything that is not.

    A file or folder is flushed if nothing in it changed since its `fsync`. A name is flushed when
    its folder is, after the rename.

    Attributes:
        unflushed: folders with names that a power cut would lose.
        renamed: number of files and folders that got their names.
    """

    def __init__(self) -> None:
        self.unflushed: dict[int, Path] = {}
        self.renamed = 0
        self._flushed: dict[int, tuple[int, int]] = {}

    def flush(self, handle: int) -> None:
        """Note an `fsync`."""
        found = os.fstat(handle)
        self._flushed[found.st_ino] = (found.st_mtime_ns, found.st_size)
        self.unflushed.pop(found.st_ino, None)

    def rename(self, source: Path, target: Path) -> None:
        """Note a rename. Renames inside a draft do not count."""
        if any(part.endswith((".hf_td", ".tmp")) for part in target.parts):
            return
        for path in (source, *source.rglob("*")):
            found = path.stat()
            known = self._flushed.get(found.st_ino)
            assert known == (found.st_mtime_ns, found.st_size), f"{path} is not on the disk"
        self.renamed += 1
        self.unflushed[target.parent.stat().st_ino] = target.parent

    def append(self, path: Path) -> None:
        """Note a name that a file got when it was opened."""
        self.unflushed[path.parent.stat().st_ino] = path.parent


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """Yield a record of the writes of the block, all of whose names have to be flushed by its end.

    The record sees what goes through `os` and `hf_td.files`.
    """
    disk = Disk()
    fsync, exchange = os.fsync, drafts.exchange
    renames = {name: getattr(os, name) for name in ("rename", "replace")}

    def flushed(handle: Any) -> None:
        fsync(handle)
        disk.flush(handle if isinstance(handle, int) else handle.fileno())

    def noting(name: str) -> Any:
        def rename(source: Any, target: Any, **options: Any) -> None:
            disk.rename(Path(source), Path(target))
            renames[name](source, target, **options)

        return rename

    def exchanged(one: Path, other: Path) -> bool:
        disk.rename(one, other)
        return exchange(one, other)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", flushed)
        for name in renames:
            patch.setattr(os, name, noting(name))
        patch.setattr(files, "exchange", exchanged)
        yield disk
    assert not disk.unflushed, f"a power cut loses names in {list(disk.unflushed.values())}"
