"""Runs a sweep: every cell of methods x levels x tasks x seeds that a YAML file describes.

    python scripts/sweep.py scripts/sweeps/glue.yaml --output runs/glue --set dataset_name=glue
    python scripts/sweep.py scripts/sweeps/glue.yaml --output runs/glue --only method=none task=sst2

A killed sweep goes on where it was; several processes may run the same one. Each cell that ends is
a line of OUTPUT/cells.jsonl, of which scripts/sweep_report.py makes tables and plots. The exit
status is 1 where a cell that was chosen failed; those that a limit left for later count as fine.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from lab.sweeps import Cell, InProcess, Ledger, OnRay, plan_cells, read_sweep, run_sweep
from lab.sweeps.grid import selects
from lab.sweeps.run import states

from hf_td.tasks.errors import UsageError, run_program

FILTERS = ("part", "task", "level", "method", "seed")


def parse(argv: Sequence[str] | None) -> Namespace:
    """The arguments of the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="YAML file")
    parser.add_argument("--output", type=Path, required=True, help="folder of the sweep")
    words: dict[str, Any] = {
        "action": "extend",
        "nargs": "+",
        "default": [],
        "metavar": "NAME=VALUE",
    }
    parser.add_argument("--set", **words, help="arguments of all cells, such as dataset_name=glue")
    parser.add_argument(
        "--only", **words, help=f"only cells with {', '.join(FILTERS)} as given; a,b means either"
    )
    parser.add_argument("--limit", type=int, help="start no more cells than this")
    parser.add_argument("--minutes", type=float, help="start no cell after this time")
    parser.add_argument("--retry", action="store_true", help="run cells again that failed")
    parser.add_argument("--keep_models", action="store_true", help="keep every fine-tuned model")
    parser.add_argument("--list", action="store_true", help="list the cells, run none")
    parser.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="run on this Ray cluster; without an address, on one started here",
    )
    parser.add_argument("--cpus_per_cell", type=float, default=1.0, help="on the Ray cluster")
    parser.add_argument("--gpus_per_cell", type=float, default=0.0, help="on the Ray cluster")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is left of a sweep, or list it."""
    options = parse(argv)
    changes = {name: yaml.safe_load(value) for name, value in pairs(options.set).items()}
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
    """What runs the cells."""
    if options.ray is None:
        return InProcess()
    address = None if options.ray == "local" else options.ray
    return OnRay(address, cpus=options.cpus_per_cell, gpus=options.gpus_per_cell)


def pairs(words: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE words as a mapping."""
    wrong = [word for word in words if "=" not in word]
    if wrong:
        raise UsageError(f"NAME=VALUE is expected, got {wrong}")
    return dict(word.split("=", 1) for word in words)


def chooser(words: Sequence[str], cells: dict[str, Cell]) -> Callable[[Cell], bool]:
    """Whether a cell has a place that `--only` selects."""
    filters = {name: value.split(",") for name, value in pairs(words).items()}
    known = {n: {str(getattr(p, n)) for c in cells.values() for p in c.places} for n in FILTERS}
    for name, values in filters.items():
        if not set(values) <= known.get(name, set()):
            raise UsageError(f"--only {name}={','.join(values)} selects nothing; there are {known}")
    return lambda cell: any(selects(filters, place) for place in cell.places)


def stopper(limit: int | None, minutes: float | None) -> Callable[[int], bool]:
    """Whether to start no more cells."""
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
