"""Keep workers busy with the open cells of a sweep."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

from filelock import FileLock

from hf_td.analysis.metrics import metric_value
from lab.sweeps.cells import Cell
from lab.sweeps.ledger import Ledger
from lab.sweeps.workers import Line, Workers

# Seconds between looks at the ledger, while another process runs a cell that is needed here.
_PATIENCE = 5.0


def run_sweep(
    cells: Mapping[str, Cell],
    ledger: Ledger,
    workers: Workers,
    *,
    wanted: Callable[[Cell], bool] = lambda cell: True,
    stop: Callable[[int], bool] = lambda started: False,
    retry: bool = False,
    keep_models: bool = False,
) -> list[Cell]:
    """Run the cells that are not finished, and write a line for each as soon as it ends.

    Several processes may run a sweep at the same time: each cell is run by one of them. A cell
    whose model other cells need comes before these, and its model is kept. A finished cell is run
    again only if a cell needs its model and the model was deleted.

    Args:
        cells: of the whole sweep by name, in the order in which to run them.
        ledger: of the sweep.
        workers: that run the cells.
        wanted: returns True for cells to run; cells that these need are run too.
        stop: called before each start with the number of cells that this call has started; True
            starts no more cells.
        retry: also run cells that failed in an earlier call.
        keep_models: keep the models of all cells.

    Returns:
        The wanted cells that cannot be finished, since they failed or need the model of a cell that
        failed. Failures of earlier calls and of other processes count, unless they are retried.
    """
    run = _Run(cells, ledger, workers, wanted, retry, keep_models)
    try:
        run.loop(stop)
    finally:
        run.release_all()
    print(run.progress(), flush=True)
    return run.broken()


class _Run:
    """One call of `run_sweep`."""

    def __init__(
        self,
        cells: Mapping[str, Cell],
        ledger: Ledger,
        workers: Workers,
        wanted: Callable[[Cell], bool],
        retry: bool,
        keep_models: bool,
    ) -> None:
        self._ledger, self._workers, self._retry = ledger, workers, retry
        self._cells = cells
        self._chosen = [cell for cell in cells.values() if wanted(cell)]
        needed = {other.name for cell in cells.values() for other in cell.models.values()}
        self._kept = set(cells) if keep_models else needed
        self._titles = {name: str(cell.places[0]) for name, cell in cells.items()}
        self._claims: dict[str, FileLock] = {}
        self._ended_here: set[str] = set()
        self._started = 0

    def loop(self, stop: Callable[[int], bool]) -> None:
        """Run cells until this process can run no more."""
        while True:
            waiting = False
            while len(self._claims) < self._workers.capacity and not stop(self._started):
                cell, waiting = self._claim_next()
                if cell is None:
                    break
                self._start(cell)
            if self._claims:
                self._finish(self._workers.next())
            elif waiting and not stop(self._started):
                time.sleep(_PATIENCE)
            else:
                return

    def release_all(self) -> None:
        """Release the locks that this process still has."""
        for claim in self._claims.values():
            claim.release()

    def progress(self) -> str:
        """Return a line with the numbers of finished, failed and open cells, and the work left."""
        ended = self._ledger.ended()
        lines = [ended[cell.name] for cell in self._chosen if cell.name in ended]
        failed = sum("error" in line for line in lines)
        left = len(self._chosen) - len(lines)
        shown = f"{len(lines) - failed} of {len(self._chosen)} cells finished, {failed} failed"
        work = self._work_left(ended)
        about = "" if work is None else f", about {timedelta(seconds=round(work))} of work"
        return f"{shown}, {left} left{about}"

    def broken(self) -> list[Cell]:
        """Return the chosen cells that failed, or that need one that did."""
        ended = self._ledger.ended()
        return [cell for cell in self._chosen if self._is_broken(cell, ended)]

    def _is_broken(self, cell: Cell, ended: Mapping[str, Line]) -> bool:
        if cell.name in ended:
            return not _is_finished(cell, ended)
        return any(self._is_broken(other, ended) for other in self._needs(cell))

    def _work_left(self, ended: Mapping[str, Line]) -> float | None:
        """Estimate the seconds of the open cells, or return None if there is nothing to go by."""
        fine = [line for line in ended.values() if "error" not in line]
        left = [cell for cell in self._chosen if cell.name not in ended]
        if not fine or not left:
            return None
        return sum(_expected_seconds(cell, fine) for cell in left)

    def _claim_next(self) -> tuple[Cell | None, bool]:
        """Return the next cell to start, or None, and True if a cell waits for its model."""
        ended = self._ledger.ended()
        waiting = False
        for cell in self._open(ended).values():
            if cell.name in self._claims:
                continue
            if not all(self._has_model(other, ended) for other in self._needs(cell)):
                waiting = True
                continue
            claim = self._ledger.claim(cell.name)
            if claim is None:
                continue
            if cell.name in self._open(self._ledger.ended()):
                self._claims[cell.name] = claim
                return cell, False
            claim.release()  # another process has just finished it
        return None, waiting

    def _open(self, ended: Mapping[str, Line]) -> dict[str, Cell]:
        """Return the cells that are to run, in order, with those that they need before them."""
        found: dict[str, Cell] = {}
        for cell in self._chosen:
            if not _is_finished(cell, ended):
                self._visit(cell, ended, found)
        return found

    def _visit(self, cell: Cell, ended: Mapping[str, Line], found: dict[str, Cell]) -> bool:
        """Add a cell and the cells that it needs; return False if one of them failed."""
        failed = "error" in ended.get(cell.name, ())
        if cell.name in self._ended_here or (failed and not self._retry):
            return False
        for other in self._needs(cell):
            if not self._has_model(other, ended) and not self._visit(other, ended, found):
                return False
        found.setdefault(cell.name, cell)
        return True

    def _needs(self, cell: Cell) -> list[Cell]:
        """Return the cells whose models a cell needs."""
        return [self._cells[other.name] for other in cell.models.values()]

    def _has_model(self, cell: Cell, ended: Mapping[str, Line]) -> bool:
        return _is_finished(cell, ended) and cell.has_model(self._ledger.root)

    def _start(self, cell: Cell) -> None:
        self._started += 1
        print(f"running {self._titles[cell.name]} ({cell.name})", flush=True)
        self._workers.start(cell, self._ledger.root, keep=cell.name in self._kept)

    def _finish(self, line: Line) -> None:
        name = line["cell"]
        self._ledger.append(line)
        self._ended_here.add(name)
        self._claims.pop(name).release()
        print(f"{self._titles[name]}: {_outcome(line)}\n{self.progress()}", flush=True)


def _is_finished(cell: Cell, ended: Mapping[str, Line]) -> bool:
    return cell.name in ended and "error" not in ended[cell.name]


def _outcome(line: Line) -> str:
    if "error" in line:
        return f"failed, {line['error']}"
    points = [
        f"{metric_value(p['metrics'][line['metric']])} at {p['sparsity']:.0%}"
        for p in line["curve"]
    ]
    return f"{line['metric']} {', '.join(points)}; {line['seconds']:.0f} s"


def _expected_seconds(cell: Cell, fine: Sequence[Line]) -> float:
    """Return the mean of finished cells of this task and method, of this task, or of all."""
    same_task = [line for line in fine if line["task"] == cell.arguments.get("task_name")]
    same_method = [line for line in same_task if line["method"] == cell.arguments.get("method")]
    lines = same_method or same_task or fine
    return sum(line["seconds"] for line in lines) / len(lines)


def states(cells: Mapping[str, Cell], ledger: Ledger) -> dict[str, str]:
    """Return `finished`, `failed` or `open` for each cell."""
    ended = ledger.ended()
    done = {name: "failed" if "error" in line else "finished" for name, line in ended.items()}
    return {name: done.get(name, "open") for name in cells}
