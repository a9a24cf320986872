"""Sweeps: grids of experiments, methods x levels x tasks x seeds, from one YAML file.

`grid` reads the file. `cells` turns each place of the grid into an experiment, and `naming` names
it. `ledger` records finished cells. `workers` run a cell here or on a Ray cluster, and `run` keeps
them busy. `report` and `page` make tables and plots of the lines in the ledger.
"""

from lab.sweeps.cells import Cell, plan_cells
from lab.sweeps.grid import Place, Sweep, read_sweep
from lab.sweeps.ledger import Ledger
from lab.sweeps.page import write_page
from lab.sweeps.report import read_report
from lab.sweeps.run import run_sweep
from lab.sweeps.workers import InProcess, OnRay

__all__ = [
    "Cell",
    "InProcess",
    "Ledger",
    "OnRay",
    "Place",
    "Sweep",
    "plan_cells",
    "read_report",
    "read_sweep",
    "run_sweep",
    "write_page",
]
