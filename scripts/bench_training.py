"""Measures how much longer training steps take with targeted dropout than without it.

    python scripts/bench_training.py --suite cpu --threads 2
    python scripts/bench_training.py --suite growth --threads 2
    python scripts/bench_training.py --suite methods --threads 2
    python scripts/bench_training.py --suite cuda --device cuda --rounds 24
    python scripts/bench_training.py --suite cuda_compiled --device cuda --rounds 24
    python scripts/bench_training.py --parts --threads 2
    python scripts/bench_training.py --memory --threads 2
    python scripts/bench_training.py --drift

Each appends lines of JSON to docs/results/training_speed.jsonl; a case that has one for the device
and the threads is left out, unless --again is given. `scripts/performance.py` makes a page of them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the slow ports are in tests

from lab.benchmarks.training.allocator import keep_freed_memory  # noqa: E402
from lab.benchmarks.training.cases import (  # noqa: E402
    METHOD_VARIANTS,
    MINILM,
    SUITES,
    VARIANTS,
    WHOLE_RECIPES,
    Case,
)
from lab.benchmarks.training.drift import measure_drift  # noqa: E402
from lab.benchmarks.training.floors import measure_floors  # noqa: E402
from lab.benchmarks.training.memory import measure_memory  # noqa: E402
from lab.benchmarks.training.steps import measure  # noqa: E402

from hf_td.analysis.record import environment  # noqa: E402
from hf_td.files import append_json_line, read_json_lines  # noqa: E402
from tests.ports import naive_port, parametrized  # noqa: E402

RESULTS = ROOT / "docs" / "results"
EVERY_VARIANT = {
    **VARIANTS,
    **WHOLE_RECIPES,
    **METHOD_VARIANTS,
    "naive port": naive_port,
    "parametrize": parametrized,
}
_MEMORY = {
    "cpu": [
        Case(variant, MINILM, 32, 128, precision=precision)
        for precision in ("float32", "bf16")
        for variant in ("weight", "unit")
    ],
    "cuda": [case for case in SUITES["cuda"]() if case.variant in ("weight", "unit")],
}
# What a case is, as opposed to what was found.
_IDENTITY = ("case", *Case.__dataclass_fields__, "kernel", "width", "interval", "device", "threads")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--suite", choices=sorted(SUITES), help="steps of a list of cases")
    what.add_argument("--parts", action="store_true", help="masks and products by themselves")
    what.add_argument("--memory", action="store_true", help="peak memory of steps")
    what.add_argument("--drift", action="store_true", help="how fast candidates change in a run")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU")
    parser.add_argument("--rounds", type=int, default=9, help="steps of each model that count")
    parser.add_argument("--only", default="", help="steps whose line, as printed, has this text")
    parser.add_argument("--again", action="store_true", help="measure what has a line already too")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Measure what is asked for, and write and print a line for each result."""
    options = parse(arguments)
    lines = options.results / "training_speed.jsonl"
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    place = {"device": options.device, "threads": options.threads}
    known = (
        set() if options.again or not lines.is_file() else set(map(_key, read_json_lines(lines)))
    )
    facts = {"script": Path(__file__).name, "command": arguments, "seed": 0, **environment()}
    if not options.memory:
        facts["keeps_freed_memory"] = keep_freed_memory()
    for record in _records(
        options, lambda c: _key({"case": "step", **c.facts(), **place}) in known
    ):
        append_json_line(lines, {**record, **place, **facts})
        print(_told(record), flush=True)


def _records(options: argparse.Namespace, done: Any) -> Iterator[dict[str, Any]]:
    device, rounds = options.device, options.rounds
    if options.parts:
        return measure_floors(device=device, rounds=rounds)
    if options.memory:
        return measure_memory(_MEMORY[device], device=device, threads=options.threads)
    if options.drift:
        with tempfile.TemporaryDirectory() as folder:
            return iter(measure_drift(folder))
    waiting = [case for case in SUITES[options.suite]() if not done(case)]
    waiting = [case for case in waiting if options.only in _told(case.facts())]
    return measure(waiting, device=device, rounds=rounds, variants=EVERY_VARIANT)


def _key(record: Mapping[str, Any]) -> str:
    """What sets a case apart from all others."""
    return repr([record.get(name) for name in _IDENTITY])


def _told(record: Mapping[str, Any], names: Iterable[str] = _IDENTITY) -> str:
    """A line for people."""
    what = [record[n]["name"] if n == "shape" else record[n] for n in names if n in record]
    found = {k: record[k] for k in ("ratio", "milliseconds", "mean_share") if k in record}
    return ", ".join(map(str, what)) + f": {found}"


if __name__ == "__main__":
    main(sys.argv[1:])
