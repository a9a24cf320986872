"""Measure how much longer training steps take with targeted dropout than without it.

    python scripts/bench_training.py --suite cpu --threads 2
    python scripts/bench_training.py --suite growth --threads 2
    python scripts/bench_training.py --suite methods --threads 2
    python scripts/bench_training.py --memory --threads 2

Each command appends lines of JSON to docs/results/training_speed.jsonl. It skips cases that have a
line for the device and the number of threads, unless --again is given. `scripts/performance.py`
makes a page of the lines. `scripts/gpu.sh` runs the suites for a GPU.
"""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lab.benchmarks.training.allocator import keep_freed_memory
from lab.benchmarks.training.cases import MEMORY, SUITES, Case
from lab.benchmarks.training.memory import measure_memory
from lab.benchmarks.training.steps import measure
from transformers.utils import logging

from hf_td.analysis.record import environment
from hf_td.files import append_json_line, read_records

RESULTS = Path(__file__).parents[1] / "docs" / "results"
# The fields that say which case a line is of.
_IDENTITY = ("case", *Case.__dataclass_fields__, "device", "threads")


def parse(arguments: list[str]) -> Namespace:
    """Return the options of a command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--suite", choices=sorted(SUITES), help="time the steps of these cases")
    what.add_argument("--memory", action="store_true", help="measure the peak memory of steps")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU")
    parser.add_argument("--rounds", type=int, default=9, help="timed steps of each model")
    parser.add_argument("--only", default="", help="only cases whose line matches this expression")
    parser.add_argument("--tiny", action="store_true", help="tiny models: tries the command out")
    parser.add_argument("--again", action="store_true", help="repeat cases that have a line")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Measure the chosen cases, and append and print a line for each result."""
    options = parse(arguments)
    lines = options.results / "training_speed.jsonl"
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    place = {"device": options.device, "threads": options.threads}
    facts = {"script": Path(__file__).name, "command": arguments, "seed": 0, **environment()}
    if not options.memory:
        facts["keeps_freed_memory"] = keep_freed_memory()
    known = lines.is_file() and not options.again
    done = set(map(_key, read_records(lines))) if known else set()
    for record in _records(options, place, done):
        append_json_line(lines, {**record, **place, **facts})
        print(_line(record), flush=True)


def _records(
    options: Namespace, place: Mapping[str, Any], done: set[str]
) -> Iterator[dict[str, Any]]:
    device = options.device
    # On another machine a suite is only tried out.
    cases = (
        MEMORY["cuda" if options.tiny else device]() if options.memory else SUITES[options.suite]()
    )
    chosen = [case for case in cases if re.search(options.only, _line(case.facts()))]
    if options.tiny:
        chosen = [case.shrunk() for case in chosen]
    if options.memory:
        return measure_memory(chosen, device=device, threads=options.threads)
    waiting = [
        case for case in chosen if _key({"case": "step", **case.facts(), **place}) not in done
    ]
    return measure(waiting, device=device, rounds=options.rounds)


def _key(record: Mapping[str, Any]) -> str:
    return repr([record.get(name) for name in _IDENTITY])


def _line(record: Mapping[str, Any], names: Iterable[str] = _IDENTITY) -> str:
    """Return a line of text about a record."""
    what = [record[n]["name"] if n == "shape" else record[n] for n in names if n in record]
    found = {k: record[k] for k in ("ratio", "milliseconds") if k in record}
    return ", ".join(map(str, what)) + f": {found}"


if __name__ == "__main__":
    main(sys.argv[1:])
