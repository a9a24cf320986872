"""Small sweeps, and workers that train nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from lab.sweeps import Cell, plan_cells, read_sweep
from lab.sweeps.workers import Line

from hf_td.tasks.experiment.output import RESULTS

GRID: dict[str, Any] = {
    "title": "A title",
    "common": {"model_name_or_path": "builtin-minilm", "use_cpu": True, "num_train_epochs": 2},
    "tasks": {"sst2": {"task_name": "sst2"}, "cola": {"task_name": "cola"}},
    "levels": {
        "weight": {"level": "weight", "sparsities": [0, 0.5]},
        "unit": {"level": "unit", "sparsities": [0, 0.25]},
    },
    "methods": {
        "none": {
            "seeds": [0, 1],
            "levels": {
                "unit": {"model_name_or_path": "{method=none level=weight}", "do_eval": True}
            },
        },
        "targeted_dropout": {"tasks": {"cola": {"learning_rate": 1e-4}}},
    },
    "seeds": [0, 1],
}


def write_grid(folder: Path, **changes: Any) -> Path:
    """Write a file with `GRID`, some sections replaced, and return its path."""
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({**GRID, **changes}, sort_keys=False))
    return path


def cells_of(folder: Path, **changes: Any) -> dict[str, Cell]:
    """Return the cells of a file from `write_grid`."""
    return plan_cells(read_sweep(write_grid(folder, **changes)))


def write_record(cell: Cell, root: Path, runs: list[dict[str, Any]]) -> None:
    """Write the record of an experiment, which has no runs before it has trained."""
    (cell.folder(root) / RESULTS).write_text(json.dumps({"runs": runs}))


def titles(cells: Any) -> list[str]:
    """Return the titles of the first places of cells."""
    return [str(cell.places[0]) for cell in cells]


class FakeWorkers:
    """Workers that end each cell at once, without training, and keep the models to keep."""

    capacity = 1

    def __init__(self, broken: tuple[str, ...] = ()) -> None:
        self.ran: list[Cell] = []
        self._broken = broken

    def start(self, cell: Cell, root: Path, *, keep: bool) -> None:
        """Record the cell, and make the folder of its model if it is kept."""
        for other in cell.models.values():
            assert other.has_model(root)
        self.ran.append(cell)
        if keep:
            cell.model(root).mkdir(parents=True, exist_ok=True)
            write_record(cell, root, runs=[{"seed": cell.seed}])

    def next(self) -> Line:
        """Return the line of the last cell."""
        cell = self.ran[-1]
        line: Line = {"cell": cell.name, "seed": cell.seed, "seconds": 60.0}
        if any(word in str(cell.places[0]) for word in self._broken):
            return {**line, "error": "ValueError: broken"}
        place = cell.places[0]
        curve = [{"sparsity": 0.5, "metrics": {"accuracy": 0.75}}]
        return {**line, "task": place.task, "method": place.method, "metric": "accuracy"} | {
            "curve": curve
        }
