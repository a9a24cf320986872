"""Compare sharded training with that of one process, and make the tables of docs/scale.md.

    python scripts/scale.py
    python scripts/scale.py --page

The first command trains each case in one process and in several with shards, on the CPU, and
appends a line of JSON for each to docs/results/scale.jsonl. It skips cases that have a line for the
number of processes, unless --again is given. Both commands replace the text between the markers
`<!-- equality -->`, `<!-- memory -->` and `<!-- traffic -->` of the page. Memory and traffic are
computed from the shapes of real configs.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path

import torch
from lab.scale.cases import CASES, SEED
from lab.scale.equality import compare, train, train_in_processes
from lab.scale.page import updated
from transformers.utils import logging

from hf_td.analysis.record import environment
from hf_td.files import append_json_line, read_records, write_text

DOCS = Path(__file__).parents[1] / "docs"


def parse(arguments: list[str]) -> Namespace:
    """Return the options of a command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--only", default="", help="only cases with this text in their name")
    parser.add_argument("--again", action="store_true", help="repeat cases that have a line")
    parser.add_argument("--page", action="store_true", help="make the tables alone")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the page")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Train what has no line yet, and update the page."""
    options = parse(arguments)
    lines, page = options.docs / "results" / "scale.jsonl", options.docs / "scale.md"
    if not options.page:
        logging.set_verbosity_error()
        torch.set_num_threads(1)
        facts = {"script": Path(__file__).name, "command": arguments, "seed": SEED, **environment()}
        for processes in options.processes:
            record(lines, processes, options, facts)
    write_text(page, updated(page.read_text(encoding="utf-8"), read_records(lines)))
    print(page)


def record(lines: Path, processes: int, options: Namespace, facts: dict[str, object]) -> None:
    """Append and print a line for each case that has none."""
    known = (
        read_records(lines, "case", "processes") if lines.is_file() and not options.again else []
    )
    done = {line["case"] for line in known if line["processes"] == processes}
    cases = [case for case in CASES if case.name not in done and options.only in case.name]
    if not cases:
        return
    pairs = zip(cases, train_in_processes(cases, processes), strict=True)
    for case, several in pairs:
        found = compare(train(case), several)
        append_json_line(lines, {"case": case.name, "processes": processes, **found, **facts})
        print(case.name, processes, found, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
