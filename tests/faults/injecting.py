"""Children that are killed, or whose disk fails, at a chosen file operation or moment.

A fault is a function that is called in the child before the work. `ended` runs the work in a fork,
and returns how it ended.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from hf_td import files

Act = Callable[[], Any]

# Beside what is sent to a server, and the opening of files to write.
OPERATIONS = ("fsync", "rename", "replace", "mkdir", "rmdir", "unlink", "open")
# What a full disk still does.
FREEING = ("rmdir", "unlink")
MOST = 400

KILLED, DONE, REFUSED, BROKEN = "killed", "done", "refused", "broken"
_STATUS = {0: DONE, 17: REFUSED, 1: BROKEN}


def start(act: Act, fault: Act = lambda: None) -> int:
    """Start the work in a fork, and return the id of the process."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        fault()
        act()
        status = 0
    except OSError:
        status = 17
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def wait(child: int, seconds: float = 300) -> str:
    """Return how a child ended: killed, done, refused by an OSError, or broken by another error.

    Raises:
        TimeoutError: it has not ended in time; it is killed.
    """
    end = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return KILLED if os.WIFSIGNALED(status) else _STATUS[os.WEXITSTATUS(status)]
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise TimeoutError(f"it has not ended after {seconds} s")
        time.sleep(0.002)


def ended(act: Act, fault: Act = lambda: None) -> str:
    """Run the work in a fork, and return how it ended."""
    return wait(start(act, fault))


def killed_after(seconds: float, act: Act) -> str:
    """Run the work in a fork that is killed after a time, and return how it ended."""
    child = start(act)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return wait(child)


def kill_before(number: int) -> Act:
    """Return a fault: the process dies before this file operation, counted from 0."""

    def strike(name: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    return lambda: _count_down(number, strike)


def fail_from(number: int, code: int) -> Act:
    """Return a fault: file operations fail from this one on, and on a full disk only new ones."""

    def strike(name: str) -> None:
        if code == errno.EROFS or name not in FREEING:
            raise OSError(code, os.strerror(code))

    return lambda: _count_down(number, strike)


def limit_files(size: int) -> Act:
    """Return a fault: no file of the process can get larger than so many bytes."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def kills(act: Act) -> Iterator[int]:
    """Yield after each kill, from the one before the first operation to that before the last."""
    for number in range(MOST):
        how = ended(act, kill_before(number))
        if how == DONE:
            assert number > 3, "hardly anything was killed"
            return
        assert how == KILLED
        yield number
    raise AssertionError(f"more than {MOST} operations")


def operations_of(act: Act) -> int:
    """Return the number of file operations of the work, which is done in a fork."""
    reading, writing = os.pipe()

    def work() -> None:
        count = [0]
        _count_down(0, lambda name: count.__setitem__(0, count[0] + 1))
        act()
        os.write(writing, str(count[0]).encode())

    how = ended(work)
    os.close(writing)
    with os.fdopen(reading) as told:
        found = told.read()
    assert how == DONE, f"without a fault the work is {how}"
    return int(found)


def _count_down(number: int, strike: Callable[[str], None]) -> None:
    """Call `strike` before each file operation from this one on, with its name."""
    left = [number]

    def count(name: str) -> None:
        if left[0]:
            left[0] -= 1
        else:
            strike(name)

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            count(name)
            return function(*arguments, **options)

        return call

    def open_file(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if set(mode) & set("wax+"):
            count("open")
        return opened(file, mode, *arguments, **options)

    opened = builtins.open
    for name in ("send", "sendall"):
        setattr(socket.socket, name, counting("send", getattr(socket.socket, name)))
    for name in OPERATIONS:
        setattr(os, name, counting(name, getattr(os, name)))
    builtins.open = io.open = open_file  # pyright: ignore[reportAttributeAccessIssue]
    files.exchange = counting("rename", files.exchange)
