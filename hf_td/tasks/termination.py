"""Lets SIGTERM end a program as Ctrl-C does: drafts are removed, and processes it started ended."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# The exit status of a program that a signal ended, as a shell reports it.
STATUS = 128 + signal.SIGTERM


@contextmanager
def unwinding_on_sigterm() -> Iterator[None]:
    """Raise SystemExit with `STATUS` inside the block when SIGTERM arrives.

    A program that has a handler of its own keeps it. A process that was forked inside the block
    ends at once: what is to be cleaned up is its parent's.
    """
    is_free = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not is_free or threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def end(number: int, frame: Any) -> None:
        if os.getpid() == owner:
            signal.signal(number, signal.SIG_IGN)  # a second one does not disturb the cleaning up
            raise SystemExit(STATUS)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
