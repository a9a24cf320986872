"""Runs cases in a child process of bounded memory, each for a bounded time."""

from __future__ import annotations

import mmap
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

from transformers.utils import logging

from tests.fuzz.targets import TARGETS, Reader

# For one case.
SECONDS = 10
# Address space beyond what the process has before the first case.
BYTES = 1 << 30
_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Outcome:
    """The cases of a target.

    Attributes:
        name: of the target.
        cases: number of contents that were read.
        accepted: number of those that no error refused.
        error: an error that is not documented, and where its case is; else empty.
    """

    name: str
    cases: int
    accepted: int
    error: str = ""

    def __str__(self) -> str:
        """Return a line, and the error."""
        line = f"{self.name}: {self.cases} cases, {self.accepted} accepted"
        return f"{line}\n{self.error}" if self.error else line


class TooSlow(BaseException):
    """The time of a case is over."""


@contextmanager
def bounded() -> Iterator[None]:
    """Raise TooSlow in the block if it takes longer than `SECONDS`."""

    def ring(*_: Any) -> None:
        raise TooSlow(f"a case took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Counts:
    """Numbers that a child and its parent share: cases and accepted ones."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 16)

    def put(self, cases: int, accepted: int) -> None:
        """Write both."""
        struct.pack_into("<2q", self._shared, 0, cases, accepted)

    def get(self) -> tuple[int, int]:
        """Read both."""
        return struct.unpack_from("<2q", self._shared)


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield an empty folder, in memory where that is possible."""
    folder = tempfile.mkdtemp(dir=_MEMORY if _MEMORY.is_dir() else None)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fuzz(name: str, seconds: float, *, first: int, guided: bool, output: Path) -> Outcome:
    """Read cases of a target for a time.

    Args:
        name: of the target.
        seconds: how long.
        first: number of the first case.
        guided: let atheris choose the cases.
        output: folder for the content of a case with an error that is not documented.
    """
    counts = Counts()
    with scratch() as folder:
        reader = Reader(TARGETS[name], folder)
        found = output / f"{name.replace(' ', '-')}.case"
        child = os.fork()
        if not child:
            _child(reader, seconds, counts, first, guided, found)
        how = _wait(child, seconds + 3 * SECONDS)
        cases, accepted = counts.get()
        if how and not found.exists():  # it was killed: what it read last is left
            _write(found, (folder / reader.target.file).read_bytes())
        error = f"{how}; the content is in {found}" if how else ""
    return Outcome(name, cases, accepted, error)


def _child(reader: Reader, seconds: float, counts: Counts, first: int, *rest: Any) -> None:
    """Read cases, and end the process: with 0, or with 1 and a traceback."""
    guided, found = rest
    status = 1
    try:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        _limit_memory()
        if guided:
            _guided(reader, seconds, counts, found)
        else:
            _random(reader, seconds, counts, first, found)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _random(reader: Reader, seconds: float, counts: Counts, first: int, found: Path) -> None:
    end, accepted, cases = time.monotonic() + seconds, 0, 0
    while time.monotonic() < end:
        accepted += _tried(reader, reader.case(first + cases), found)
        cases += 1
        counts.put(cases, accepted)


def _tried(reader: Reader, content: bytes, found: Path) -> bool:
    """Read a case; write it to a file if its error is not documented."""
    try:
        with bounded():
            return reader.read(content)
    except BaseException:  # MemoryError and TooSlow too
        _write(found, content)
        raise


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _guided(reader: Reader, seconds: float, counts: Counts, found: Path) -> None:
    """Read the cases that atheris makes of the seeds, by our changes and by its own."""
    atheris: Any = import_module("atheris")

    done = [0, 0]

    def one(content: bytes) -> None:
        done[1] += _tried(reader, content, found)
        done[0] += 1
        counts.put(done[0], done[1])

    def change(content: bytes, most: int, seed: int) -> bytes:
        if seed % 4 == 0:  # its own changes know which bytes were compared with what
            return atheris.Mutate(content, most)
        try:
            return reader.target.mutate(content, Random(seed))[:most]
        except Exception:  # no longer of the form that the structural changes need
            return atheris.Mutate(content, most)

    corpus = reader.folder / "corpus"
    corpus.mkdir()
    for index, seed in enumerate(reader.seeds):
        (corpus / str(index)).write_bytes(seed)
    options = [f"-max_total_time={int(seconds)}", "-verbosity=0", "-rss_limit_mb=8192"]
    options.append(f"-artifact_prefix={reader.folder}/")
    atheris.Setup([sys.argv[0], *options, str(corpus)], one, custom_mutator=change)
    atheris.Fuzz()


def _wait(child: int, seconds: float) -> str:
    """Return how a child failed; nothing if it did not."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return f"the process ended with {code}" if code else ""
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "the process did not end"
