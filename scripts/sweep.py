"""Run a sweep: every cell of methods x levels x tasks x seeds in a YAML file.

    python scripts/sweep.py scripts/sweeps/glue.yaml --output runs/glue --set dataset_name=glue
    python scripts/sweep.py scripts/sweeps/glue.yaml --output runs/glue --only method=none task=sst2

A sweep that was killed continues, and several processes may share one. Each cell that ends adds a
line to OUTPUT/cells.jsonl, from which scripts/sweep_report.py makes tables and plots. The exit
status is 1 if a chosen cell failed, and 0 if a limit left cells for later.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lab.sweeps import Cell, InProcess, Ledger, OnRay, plan_cells, read_sweep, run_sweep
from lab.sweeps.grid import selects
from lab.sweeps.run import states

from hf_td.tasks.errors import UsageError, blaming_input, run_program
from hf_td.tasks.plain_values import parse_yaml

FILTERS = ("part", "task", "level", "method", "seed")


def parse(argv: Sequence[str] | None) -> Namespace:
    """Return the options of a command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="YAML file")
    parser.add_argument("--output", type=Path, required=True, help="folder of the sweep")
    words: dict[str, Any] = {
        "action": "extend",
        "nargs": "+",
        "default": [],
        "metavar": "NAME=VALUE",
    }
    parser.add_argument(
        "--set", **words, help="change arguments of all cells, such as dataset_name=glue"
    )
    parser.add_argument(
        "--only", **words, help=f"only cells with this {' or '.join(FILTERS)}; a,b means a or b"
    )
    parser.add_argument("--limit", type=int, help="start at most this number of cells")
    parser.add_argument("--minutes", type=float, help="start no cell after this number of minutes")
    parser.add_argument("--retry", action="store_true", help="rerun failed cells")
    parser.add_argument("--keep_models", action="store_true", help="keep every fine-tuned model")
    parser.add_argument("--list", action="store_true", help="list the cells, run none")
    parser.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="run on the Ray cluster at ADDRESS, or start one on this machine",
    )
    parser.add_argument("--cpus_per_cell", type=float, default=1.0, help="processors, with --ray")
    parser.add_argument("--gpus_per_cell", type=float, default=0.0, help="accelerators, with --ray")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the open cells of a sweep, or list all cells."""
    options = parse(argv)
    with blaming_input():
        changes = {name: parse_yaml(value) for name, value in pairs(options.set).items()}
    sweep = read_sweep(options.sweep, changes)
    cells = plan_cells(sweep)
    wanted = chooser(options.only, cells)
    ledger = Ledger(options.output)
    if options.list:
        show(cells, ledger, wanted)
        return
    ledger.record_plan(sweep.title, cells)
    broken = run_sweep(
        cells,
        ledger,
        workers(options),
        wanted=wanted,
        stop=stopper(options.limit, options.minutes),
        retry=options.retry,
        keep_models=options.keep_models,
    )
    if broken:
        sys.exit(1)


def workers(options: Namespace) -> InProcess | OnRay:
    """Return the workers that run the cells."""
    if options.ray is None:
        return InProcess()
    address = None if options.ray == "local" else options.ray
    return OnRay(address, cpus=options.cpus_per_cell, gpus=options.gpus_per_cell)


def pairs(words: Sequence[str]) -> dict[str, str]:
    """Return words of the form NAME=VALUE as a mapping."""
    wrong = [word for word in words if "=" not in word]
    if wrong:
        raise UsageError(f"NAME=VALUE is expected, got {wrong}")
    return dict(word.split("=", 1) for word in words)


def chooser(words: Sequence[str], cells: dict[str, Cell]) -> Callable[[Cell], bool]:
    """Return a function that is True for cells with a place that `--only` selects."""
    filters = {name: value.split(",") for name, value in pairs(words).items()}
    known = {n: {str(getattr(p, n)) for c in cells.values() for p in c.places} for n in FILTERS}
    for name, values in filters.items():
        if not set(values) <= known.get(name, set()):
            raise UsageError(
                f"--only {name}={','.join(values)} selects nothing. The sweep has {known}."
            )
    return lambda cell: any(selects(filters, place) for place in cell.places)


def stopper(limit: int | None, minutes: float | None) -> Callable[[int], bool]:
    """Return a function that is True when no more cells may be started."""
    end = None if minutes is None else time.monotonic() + 60 * minutes
    return lambda started: (
        (limit is not None and started >= limit) or (end is not None and time.monotonic() >= end)
    )


def show(cells: dict[str, Cell], ledger: Ledger, wanted: Callable[[Cell], bool]) -> None:
    """Print the cells and their states."""
    for name, state in states(cells, ledger).items():
        if wanted(cells[name]):
            print(f"{name} {state:8} {'; '.join(map(str, cells[name].places))}")


if __name__ == "__main__":
    run_program(main)
