"""Writes files and folders as a whole or not at all, also when the machine goes down meanwhile.

Every write goes to a draft beside its target. The draft is flushed to the disk, with all files and
folders in it. It is renamed, and the folder around it is flushed. A reader finds the old content or
the new, never a part. A killed process leaves the old content, and a hidden draft.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import reprlib
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from hf_td.drafts import clear_leftovers, draft_folder, exchange, kept_aside

# The errors of a disk, which the system raises without a path.
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
# What the errors of torch's writer of files say.
_OF_TORCH = ("inline_container", "PytorchStreamWriter", "iostream error")
# The errors of a rename onto something that exists; which one depends on the system.
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)
# Folders that an export may hold, beside those of `module_folders`: tokenizers write their chat
# templates into one.
_INNER_FOLDERS = ("additional_chat_templates",)
# The list of modules that sentence-transformers writes.
MODULES = "modules.json"


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield the path of a draft, which replaces `path` when the block ends without an error.

    Missing folders are made. A link stays, and what it points to is replaced.

    Raises:
        OSError: the disk is full, or the file larger than may be; its `filename` is `path`.
    """
    path = Path(path).resolve()
    make_folder(path.parent)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with naming(path):
            mode = _usual_mode(draft)
            yield draft
            draft.chmod(mode)
            flush(draft)
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    flush(path.parent)


def _usual_mode(free: Path) -> int:
    """Return the permissions of a new file at a path that is free.

    safetensors writes files that only their owner can read.
    """
    free.touch()
    mode = free.stat().st_mode
    free.unlink()
    return stat.S_IMODE(mode)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file in one step."""
    with replacing(path) as draft:
        draft.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8 in one step, with line ends as they are."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file in one step; numbers that are not finite become null."""
    write_text(path, json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path, *, most: int | None = None) -> Any:
    """Return the value of a JSON file, which anybody may have written.

    Args:
        path: the file.
        most: refuse a file with more bytes; None for any number.

    Raises:
        OSError: there is no such file, or it may not be read.
        ValueError: it is too large, not in UTF-8, no JSON, or nested too deeply. The message names
            the file.
    """
    path = Path(path)
    if most is not None and path.stat().st_size > most:
        raise ValueError(f"{path} should have at most {most} bytes. Copy the right file there")
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} should be JSON: {error}. The file is damaged or of another kind; copy or "
            "write it again"
        ) from error


def read_json_object(path: str | Path, *, most: int | None = None) -> dict[str, Any]:
    """Return the mapping in a JSON file, which anybody may have written.

    Args:
        path: the file.
        most: as for `read_json`.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it may not be read.
        ValueError: as for `read_json`, or it holds no mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path.name} in {path.parent}")
    return _object(read_json(path, most=most), path)


def _object(value: Any, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(
            f"{path} should be a mapping, got {reprlib.repr(value)}. The file is damaged or of "
            "another kind; copy or write it again"
        )
    return value


def parse_json(text: str) -> Any:
    """Return the value of a JSON document.

    Raises:
        ValueError: the document is not valid, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(f"it is nested too deeply: {error}") from error


def append_json_line(path: str | Path, value: Any) -> None:
    """Append a line of JSON, and return when it is on the disk. Missing folders are made.

    A torn line that a crash left at the end is closed first: it spoils no other line.
    """
    path = Path(path)
    make_folder(path.parent)
    line = json.dumps(_finite(value), allow_nan=False) + "\n"
    is_new = not path.exists()
    # Without a buffer, so that lines of several processes do not mix.
    with naming(path), path.open("ab", buffering=0) as file:
        file.write((("\n" if _is_torn(path) else "") + line).encode())
        os.fsync(file.fileno())
    if is_new:
        flush(path.parent)


def read_json_lines(path: str | Path) -> list[Any]:
    """Read the values that `append_json_line` wrote, without lines that a crash tore.

    Raises:
        OSError: there is no such file, or it may not be read.
    """
    values = []
    for line in Path(path).read_bytes().split(b"\n")[:-1]:
        with suppress(ValueError):  # no UTF-8, or no JSON
            values.append(parse_json(line.decode()))
    return values


def read_records(path: str | Path, *names: str) -> list[dict[str, Any]]:
    """Read the mappings that `append_json_line` wrote, without lines that a crash tore.

    Args:
        path: the file.
        names: entries that every mapping has.

    Raises:
        OSError: there is no such file, or it may not be read.
        ValueError: a line is no mapping, or lacks an entry. The message names the file.
    """
    records = read_json_lines(path)
    for record in records:
        if not isinstance(record, dict) or not record.keys() >= set(names):
            raise ValueError(
                f"each line of {path} should be a mapping{f' with {names}' if names else ''}, got "
                f"{reprlib.repr(record)}. Remove this line, or choose another file"
            )
    return records


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_torn(path: Path) -> bool:
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


@contextmanager
def whole_folder(target: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder, which becomes `target` when the block ends without an error.

    On Linux an old folder and the new one are exchanged in one step. Elsewhere, and on file systems
    without the exchange, two renames follow each other, and in between there is no `target`.
    Drafts that killed processes left are removed.

    Args:
        target: the folder to write. Where it is a link, what the link points to is replaced.
        overwrite: replace what is there, within the limits of `check_free`.

    Raises:
        FileExistsError: `target` holds something and `overwrite` is False, or another process
            wrote it before the block ended.
        OSError: the disk is full, or a file larger than may be; its `filename` is `target`.
    """
    target = Path(target).resolve()
    clear_leftovers(target)
    check_free(target, overwrite=overwrite)
    make_folder(target.parent)
    with naming(target), draft_folder(target) as draft:
        mode = _usual_mode(draft / ".mode")
        yield draft
        for file in draft.rglob("*"):
            if file.is_file() and not file.is_symlink():
                file.chmod(mode)
        flush_tree(draft)
        if overwrite:
            check_free(target, overwrite=True)  # the block can have taken hours
        _replace_folder(target, draft, overwrite)
        flush(target.parent)


def check_free(target: Path, *, overwrite: bool) -> None:
    """Raise FileExistsError unless the folder is empty, absent, or may be overwritten.

    Overwriting deletes the old content. A folder with folders in it was not written by
    `whole_folder`, and is refused in any case. So is the working folder.
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
    inner = {*_INNER_FOLDERS, *module_folders(target)}
    folders = [path.name for path in inside if path.is_dir() and path.name not in inner]
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


def module_folders(folder: Path) -> list[str]:
    """Return the names of the folders that modules.json lists; none without that file.

    Raises:
        ValueError: the file is damaged, or names a place that is no folder in this one.
    """
    path = folder / MODULES
    if not path.is_file():
        return []
    try:
        modules = read_json(path)
        names = [module["path"] for module in modules]
        strange = [name for name in names if name in (".", "..") or re.search(r"[/\\\0]", name)]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} should list modules with a path each: {error!r}") from error
    if strange:
        raise ValueError(f"{path} should name folders in {folder}, got {strange[0]!r}")
    return [name for name in names if name]


def folder_bytes(folder: str | Path) -> int:
    """Return the size of all files of a folder, and of the folders in it."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def make_folder(folder: Path) -> None:
    """Make a folder and all that are missing around it, and flush their names to the disk."""
    folder = folder.absolute()
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        flush(folder.parent)


def flush_tree(folder: Path) -> None:
    """Flush all files and folders of a folder, and the folder itself, to the disk."""
    for path in (*folder.rglob("*"), folder):
        flush(path)


def _replace_folder(target: Path, new: Path, overwrite: bool) -> None:
    """Put a new folder in the place of `target`. An old one is left in the folder of the draft."""
    if overwrite and target.exists() and exchange(new, target):
        return
    old = kept_aside(new)
    try:
        with suppress(FileNotFoundError):
            if overwrite:
                target.rename(old)
            else:
                target.rmdir()
        new.rename(target)
    except OSError as error:
        if error.errno in _TAKEN:
            raise FileExistsError(
                f"{target} was written by another process meanwhile; that one is kept, and this "
                "one is not written"
            ) from error
        raise


def is_of_the_disk(error: OSError) -> bool:
    """Return True for the error of a disk that is full, failing or read-only."""
    return error.errno in _OF_THE_DISK


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add a path to the errors of a full or failing disk, those of safetensors and torch too.

    Raises:
        OSError: an error of the disk; its `filename` is the path.
    """
    try:
        yield
    except RuntimeError as error:  # of torch.save, which tells no error of the system
        if not any(word in str(error) for word in _OF_TORCH):
            raise
        what = "torch.save could not write a file; is there room on the disk?"
        raise OSError(errno.EIO, what, str(path)) from error
    except SafetensorError as error:  # of its writer: the system's error is in the text
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code is None:
            raise
        number = int(code[1])
        raise OSError(number, os.strerror(number), str(path)) from error
    except OSError as error:
        if is_of_the_disk(error) and error.filename is None:
            error.filename = str(path)
        raise


def flush(path: Path) -> None:
    """Flush the content of a file, or the names in a folder, to the disk."""
    posix = os.name == "posix"
    if posix or path.is_file():  # only POSIX can open a folder
        handle = os.open(path, os.O_RDONLY if posix else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
