"""Private folders for drafts, and the exchange of two folders in one step.

A draft lies in a hidden folder beside its target. The name of that folder has a random part, so no
other program can have it. A locked file in it says whose it is. A killed process loses its lock,
and the next draft of that target removes what is left. Nothing else is touched.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # not POSIX: nothing can be locked, and leftovers stay
    fcntl = None

# The end of the name of a private folder.
PRIVATE = ".hf_td"
_LOCK = "lock"
_OLD = "old"
_NEW = "new"
_TOKEN_BYTES = 8
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
# A kernel or a file system without the exchange says so by one of these.
_UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)


@contextmanager
def draft_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder for a draft of `target`, removed with all beside it at the end.

    `kept_aside(draft)` is a free name in the private folder around it.

    Args:
        target: an absolute path whose parent exists.
    """
    private = target.with_name(f".{target.name}.{secrets.token_hex(_TOKEN_BYTES)}{PRIVATE}")
    private.mkdir(mode=0o700)
    try:
        with (private / _LOCK).open("x", encoding="utf-8") as lock:
            with suppress(OSError):  # a file system without locks: nobody removes what is left
                _lock(lock)
                lock.write(_claim(target))
                lock.flush()
            draft = private / _NEW
            draft.mkdir()  # with the permissions that the umask gives
            yield draft
    finally:
        _remove(private, target)


def kept_aside(draft: Path) -> Path:
    """Return the path for an old folder that waits until a draft has taken its place."""
    return draft.with_name(_OLD)


def clear_leftovers(target: Path) -> None:
    """Remove what killed processes of this user and machine left of their drafts of `target`.

    An old folder that waited while its process was killed is put back.
    """
    token = rf"\.[0-9a-f]{{{2 * _TOKEN_BYTES}}}"
    pattern = re.compile(rf"\.{re.escape(target.name)}{token}{re.escape(PRIVATE)}")
    if fcntl is None or not target.parent.is_dir():
        return
    for private in [path for path in target.parent.iterdir() if pattern.fullmatch(path.name)]:
        with suppress(OSError), _left_behind(private, target):
            _remove(private, target)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; return False where the system cannot.

    Raises:
        OSError: one of them is missing, or may not be renamed.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if _LINUX else None
    if rename is None:
        return False
    names = (os.fsencode(one), os.fsencode(other))
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNKNOWN:
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


_LINUX = os.uname().sysname == "Linux" if hasattr(os, "uname") else False


def _remove(private: Path, target: Path) -> None:
    """Remove a private folder. An old folder goes back to its place if that is free.

    The lock goes last: a process that is killed meanwhile leaves it, with the rest.
    """
    old = private / _OLD
    if old.exists() and not target.exists():
        old.rename(target)
    for folder in (old, private / _NEW, private):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _left_behind(private: Path, target: Path) -> Iterator[None]:
    """Run the block with the lock of a private folder.

    Raises:
        OSError: the folder is of another user, machine or program, or its process still runs.
    """
    folder = private.lstat()
    with os.fdopen(os.open(private / _LOCK, os.O_RDWR | os.O_NOFOLLOW), encoding="utf-8") as lock:
        if folder.st_uid != os.getuid() or private.is_symlink() or lock.read() != _claim(target):
            raise PermissionError(errno.EPERM, "of somebody else", str(private))
        _lock(lock)
        yield


def _claim(target: Path) -> str:
    return f"a draft of {target.name} by hf_td on {socket.gethostname()}\n"


def _lock(file: IO[str]) -> None:
    """Lock a file until it is closed, or its process ends.

    Raises:
        OSError: another process has the lock.
    """
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
