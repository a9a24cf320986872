"""Measure what a user waits for besides training: patching, importing, pruning, exporting.

    python scripts/bench_pruning.py --threads 1 --rounds 5
    python scripts/bench_pruning.py --case export --rounds 3

Each command appends a line of JSON for each case to docs/results/pruning_speed.jsonl. The exports
need 8 GB of memory, and 4 GB in the folder for temporary files. The folders of 7 billion parameters
need 28 GB there; they are measured only if they are named by --case.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path

import torch
from lab.benchmarks.pruning import CASES, measure_case
from transformers.utils import logging

from hf_td.analysis.record import environment
from hf_td.files import append_json_line

RESULTS = Path(__file__).parents[1] / "docs" / "results"
SEED = 0


def parse(arguments: list[str]) -> Namespace:
    """Return the options of a command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=list(CASES), help="only these cases")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each case")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Measure the chosen cases, and append and print a line for each."""
    options = parse(arguments)
    logging.disable_progress_bar()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # of the processes that are started
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    command = " ".join(["python scripts/bench_pruning.py", *arguments])
    facts = {"command": command, "seed": SEED, "threads": options.threads, **environment()}
    for name in options.case or [name for name in CASES if "7b" not in name]:
        record = measure_case(name, options.rounds)
        append_json_line(options.results / "pruning_speed.jsonl", {**record, **facts})
        print(f"{name}: {record}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
