"""Runs a grid of experiments: methods x levels x tasks x seeds, from one YAML file.

The way of a sweep: `grid` reads the file, `cells` turns each place of the grid into one experiment,
`ledger` keeps what is finished, `workers` run a cell here or on a Ray cluster, `run` keeps them
busy, `report` and `page` make tables and plots of the lines.
"""

from hf_td.sweeps.cells import Cell, plan_cells
from hf_td.sweeps.grid import Place, Sweep, read_sweep
from hf_td.sweeps.ledger import Ledger
from hf_td.sweeps.page import write_page
from hf_td.sweeps.report import read_report
from hf_td.sweeps.run import run_sweep
from hf_td.sweeps.workers import InProcess, OnRay

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
