"""Record what a sweep has done: a file of JSON lines, and locks that end with their process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hf_td.files import append_json_line, read_records
from hf_td.tasks.errors import blaming_input
from lab.sweeps.cells import Cell

LINES = "cells.jsonl"


class Ledger:
    """The folder of a sweep, which several processes may share.

    Args:
        root: the folder. `cells.jsonl` has a line for each cell that ended and for each plan,
            `cells/` has the folders of running cells and of kept models, `locks/` has the locks.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.lines = self.root / LINES
        self._locks = self.root / "locks"
        self._locks.mkdir(parents=True, exist_ok=True)

    def append(self, line: Mapping[str, Any]) -> None:
        """Append a line in one piece, even while other processes append theirs."""
        with FileLock(self._locks / "lines.lock"):
            append_json_line(self.lines, line)

    def ended(self) -> dict[str, dict[str, Any]]:
        """Return the last line of each cell that ended, by name; failed cells have an `error`."""
        return {line["cell"]: line for line in self._read() if "cell" in line}

    def record_plan(self, title: str, cells: Mapping[str, Cell]) -> None:
        """Append the plan, which gives the cell of each place, unless the last plan equals it."""
        places = [
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
        plan = {"title": title, "plan": places}
        known = [line for line in self._read() if "plan" in line]
        if not known or known[-1] != plan:
            self.append(plan)

    def claim(self, name: str) -> FileLock | None:
        """Lock a cell, and return the lock; None if another process runs the cell.

        The caller releases the lock. If its process ends, even by a kill, the operating system
        does.
        """
        lock = FileLock(self._locks / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return lock

    def _read(self) -> list[dict[str, Any]]:
        with blaming_input():
            return read_records(self.lines) if self.lines.is_file() else []
