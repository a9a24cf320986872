"""Run cells: in this process, or as tasks of a Ray cluster."""

from __future__ import annotations

import json
import os
import shutil
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from hf_td.analysis.record import environment
from hf_td.extras import extra
from hf_td.tasks.errors import UsageError, blaming_input
from hf_td.tasks.experiment.output import RESULTS
from hf_td.tasks.experiment.series import run_experiment
from hf_td.tasks.registry import TASKS
from lab.sweeps.cells import Cell

Line = dict[str, Any]

# Entries of a line that are copied from the results of an experiment, and from those of its run.
_FROM_RESULTS = ("task", "model", "method", "split", "metric", "lower_is_better", "configuration")
_FROM_RUN = ("training", "curve", "costs", "train_seconds", "measure_seconds")


class Workers(Protocol):
    """Something that runs cells.

    Attributes:
        capacity: the number of cells that may run at a time.
    """

    capacity: int

    def start(self, cell: Cell, root: Path, *, keep: bool) -> None:
        """Start a cell in the folder of its sweep; `keep` leaves its model there."""
        ...

    def next(self) -> Line:
        """Wait until a cell ends, and return its line."""
        ...


class InProcess:
    """Workers that run one cell at a time, in this process."""

    capacity = 1

    def start(self, cell: Cell, root: Path, *, keep: bool) -> None:
        """Run a cell to its end."""
        self._line = run_cell(cell, root, keep=keep)

    def next(self) -> Line:
        """Return the line of the last cell."""
        return self._line


class OnRay:
    """Workers that run cells as tasks of a Ray cluster, each with processors of its own.

    The working folder must have the same path on all machines of the cluster. So must the folders
    of the sweep and of the data.

    Args:
        address: of the cluster; None starts one on this machine.
        cpus: processors for a cell.
        gpus: accelerators for a cell; may be a fraction.
        **options: of `ray.init`.

    Raises:
        UsageError: Ray is not installed, or the cluster is too small for a cell.
    """

    def __init__(
        self, address: str | None = None, *, cpus: float = 1, gpus: float = 0, **options: Any
    ) -> None:
        self._ray: Any = _import_ray()
        if not self._ray.is_initialized():
            self._ray.init(address=address, **options)
        self._task = self._ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_run_in)
        self._running: dict[Any, Cell] = {}
        self.capacity = _capacity(self._ray.cluster_resources(), {"CPU": cpus, "GPU": gpus})

    def start(self, cell: Cell, root: Path, *, keep: bool) -> None:
        """Submit a cell to the cluster."""
        self._running[self._task.remote(Path.cwd(), cell, root, keep)] = cell

    def next(self) -> Line:
        """Wait until a cell ends, and return its line; if its machine was lost, with an error."""
        (done, *_), _ = self._ray.wait(list(self._running), num_returns=1)
        cell = self._running.pop(done)
        try:
            return self._ray.get(done)
        except self._ray.exceptions.RayError as error:
            return {"cell": cell.name, "seed": cell.seed, **_error(error), "seconds": 0.0}


def _import_ray() -> Any:
    with blaming_input(), extra("ray"):
        import ray
    return ray


def _capacity(there: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    """Return the number of cells that fit into a cluster."""
    fitting = [int(there.get(kind, 0) / number) for kind, number in wanted.items() if number]
    capacity = min(fitting, default=1)
    if not capacity:
        raise UsageError(
            f"No cell fits into the Ray cluster. A cell needs {dict(wanted)}, and the cluster has "
            f"{dict(there)}. Lower --cpus_per_cell or --gpus_per_cell."
        )
    return capacity


def _run_in(folder: Path, cell: Cell, root: Path, keep: bool) -> Line:
    os.chdir(folder)  # paths are relative to the folder in which the sweep was started
    return run_cell(cell, root, keep=keep)


def run_cell(cell: Cell, root: Path, *, keep: bool) -> Line:
    """Run a cell, clear up after it, and return its line, which may record an error.

    Args:
        cell: to run.
        root: folder of the sweep. A killed run of the cell is continued from its files there.
        keep: leave the fine-tuned model in the folder of the cell.
    """
    started = time.perf_counter()
    facts: Line = {"cell": cell.name, "seed": cell.seed, "command": cell.command(root)}
    try:
        facts |= _measure(cell, root)
    except Exception as error:  # other cells go on after any error
        facts |= _error(error)
    else:
        if not keep:
            shutil.rmtree(cell.folder(root))
    return {
        **facts,
        "seconds": time.perf_counter() - started,
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
    }


def _error(error: Exception) -> Line:
    trace = "".join(traceback.format_exception(error))
    return {"error": f"{type(error).__name__}: {error}", "traceback": trace}


def _clear_useless(folder: Path, model: Path) -> None:
    """Remove a folder that cannot be continued: without record, or finished without model."""
    record = folder / RESULTS
    continues = record.is_file() and (
        model.is_dir() or not json.loads(record.read_text(encoding="utf-8"))["runs"]
    )
    if folder.exists() and not continues:
        shutil.rmtree(folder)


def _measure(cell: Cell, root: Path) -> Line:
    _clear_useless(cell.folder(root), cell.model(root))
    kind = TASKS[cell.kind]
    results = run_experiment(kind.parse(cell.argv(root)), kind.make)
    (run,) = results["runs"]
    return {**{n: results[n] for n in _FROM_RESULTS}, **{n: run[n] for n in _FROM_RUN}}
