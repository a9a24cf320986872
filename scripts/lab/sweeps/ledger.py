"""What a sweep has done: a file of JSON lines, and locks that no killed process leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hf_td.files import append_json_line, read_json_lines
from lab.sweeps.cells import Cell

LINES = "cells.jsonl"


class Ledger:
    """The folder of a sweep, which several processes may share.

    Args:
        root: the folder, with `cells.jsonl` (a line for each cell that ended, and one for each
            plan), `cells/` (the folders of cells that run, or whose models are kept) and `locks/`.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.lines = self.root / LINES
        self._locks = self.root / "locks"
        self._locks.mkdir(parents=True, exist_ok=True)

    def append(self, line: Mapping[str, Any]) -> None:
        """Append a line in one piece, whoever else appends."""
        with FileLock(self._locks / "lines.lock"):
            append_json_line(self.lines, line)

    def ended(self) -> dict[str, dict[str, Any]]:
        """The last line of each cell that ended, by name; those that failed have an `error`."""
        return {line["cell"]: line for line in self._read() if "cell" in line}

    def record_plan(self, title: str, cells: Mapping[str, Cell]) -> None:
        """Write which cell stands where, unless that is what the last plan says."""
        plan = {"title": title, "plan": _plan(cells)}
        known = [line for line in self._read() if "plan" in line]
        if not known or known[-1] != plan:
            self.append(plan)

    def claim(self, name: str) -> FileLock | None:
        """A lock on a cell, to be released by its owner; None where another process runs it.

        The operating system holds the lock for the process and takes it back when that ends, in
        whatever way.
        """
        lock = FileLock(self._locks / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return lock

    def _read(self) -> list[dict[str, Any]]:
        return read_json_lines(self.lines) if self.lines.is_file() else []


def _plan(cells: Mapping[str, Cell]) -> list[dict[str, Any]]:
    return [
        {
            "part": place.part,
            "task": place.task,
            "level": place.level,
            "method": place.method,
            "label": place.label,
            "seed": place.seed,
            "knobs": dict(place.knobs),
            "cell": name,
        }
        for name, cell in cells.items()
        for place in cell.places
    ]
