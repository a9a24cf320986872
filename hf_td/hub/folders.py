"""Writes a folder as a whole or not at all."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from transformers.utils.hub import CHAT_TEMPLATE_DIR

# What a rename says where something is already; which one depends on the system.
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)
# Folders that tokenizers write.
_OF_AN_EXPORT = (CHAT_TEMPLATE_DIR,)


@contextmanager
def whole_folder(target: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes `target` when the block ends without an error.

    A process that is killed leaves the old folder or none, and a hidden temporary one beside it.

    Raises:
        FileExistsError: `target` holds something and `overwrite` is False, or somebody else wrote
            it before the block ended.
    """
    target = Path(target).resolve()  # what a link points to is replaced, not the link
    if _old(target).exists() and not target.exists():
        _old(target).rename(target)  # an earlier process was killed between the two renames
    check_free(target, overwrite=overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp makes it private
        _replace(target, temporary, overwrite)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def check_free(target: Path, *, overwrite: bool) -> None:
    """Raise FileExistsError unless the folder is empty, absent, or may be overwritten.

    Overwriting deletes what is there: so a folder with folders in it, which is not what was written
    here before, and the working folder are refused in any case.
    """
    if target.is_file():
        raise FileExistsError(f"{target} is a file, not a folder; choose another name")
    if not target.exists():
        return
    inside = list(target.iterdir())
    if inside and not overwrite:
        raise FileExistsError(
            f"{target} holds something already; choose another folder, or overwrite it "
            "(overwrite=True, on the command line --overwrite)"
        )
    folders = [path.name for path in inside if path.is_dir() and path.name not in _OF_AN_EXPORT]
    if folders:
        raise FileExistsError(
            f"{target} holds folders, such as {folders[0]}, so it is no export that could be "
            "overwritten; choose another folder"
        )
    if Path.cwd().is_relative_to(target.resolve()):
        raise FileExistsError(
            f"{target} is the folder that this program runs in, which cannot be replaced; choose "
            "another folder"
        )


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _replace(target: Path, new: Path, overwrite: bool) -> None:
    old = _old(target)
    shutil.rmtree(old, ignore_errors=True)
    try:
        with suppress(FileNotFoundError):
            if overwrite:
                target.rename(old)
            else:
                target.rmdir()
        new.rename(target)
    except BaseException as error:
        if getattr(error, "errno", None) in _TAKEN:
            raise FileExistsError(
                f"{target} was written by somebody else meanwhile; theirs is kept, and this one "
                "is not written"
            ) from error
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def folder_bytes(folder: str | Path) -> int:
    """Size of all files of a folder."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
