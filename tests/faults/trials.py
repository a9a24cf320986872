"""Trials of one case: a fault, a look at what is left, and the work once more."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.cases import Case
from tests.faults.injecting import BROKEN, DONE, Act, ended, start, wait

# Runs the work with a fault, and returns how it ended.
Fault = Callable[[Act], str]


@dataclass
class Tally:
    """Counts what survived.

    Attributes:
        tried: number of faults.
        failures: what was wrong after the others.
    """

    tried: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def survived(self) -> int:
        """Number of faults after which all was well."""
        return self.tried - len(self.failures)

    def note(self, what: str, check: Callable[[], Any]) -> None:
        """Count a fault, and what was wrong after it if the check fails."""
        self.tried += 1
        try:
            check()
        except Exception as error:
            self.failures.append(f"{what}: {type(error).__name__}: {error}")


class Trials:
    """A case in a folder, with its state before and after the work.

    Args:
        case: the work.
        folder: an empty folder.
    """

    def __init__(self, case: Case, folder: Path) -> None:
        self.case, self.place, self._old = case, folder / "place", folder / "old"
        self.place.mkdir()
        self.act = case.prepare(self.place)
        self.before = case.state(self.place)
        shutil.copytree(self.place, self._old)
        assert ended(self.act) == DONE
        self.after = case.state(self.place)
        assert self.after != self.before
        self.used = sum(path.stat().st_size for path in self.place.rglob("*") if path.is_file())
        self.renew()

    def renew(self) -> None:
        """Bring back the old state."""
        shutil.rmtree(self.place)
        shutil.copytree(self._old, self.place)

    def check(self, fault: Fault) -> None:
        """Raise AssertionError unless the case survives a fault."""
        self.renew()
        how = fault(self.act)
        found = self.case.state(self.place)
        assert how != BROKEN, "another error than OSError"
        assert how != DONE or found == self.after, "it ended without an error, and is not done"
        if self.case.atomic:
            assert found in (self.before, self.after), "neither the old state nor the new one"
        assert ended(self.act) == DONE, "the work cannot be done again"
        assert self.case.state(self.place) == self.after, "done again it gives another state"
        if self.case.tidy:
            left = [path for path in hidden(self.place) if path.stat().st_size]
            assert not left, f"left behind: {left}"


def hidden(folder: Path) -> Iterator[Path]:
    """Yield the files in hidden folders, but locks of processes that had not begun to write."""
    for private in folder.glob(".*"):
        yield from (path for path in private.rglob("*") if path.is_file())


def together(act: Act, processes: int = 2) -> list[str]:
    """Run the work in several forks at the same time, and return how each ended."""

    def begin() -> None:
        signal.sigwait([signal.SIGUSR1])

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        children = [start(act, begin) for _ in range(processes)]
        for child in children:
            os.kill(child, signal.SIGUSR1)
        return [wait(child) for child in children]
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
