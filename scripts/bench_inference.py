"""Measure how fast compact models are: random weights of the size of BERT-base.

    python scripts/bench_inference.py --threads 1 --rounds 9
    python scripts/bench_inference.py --report

The first command appends a line of JSON for each case and size to docs/results/inference.jsonl. The
second makes a table of all lines, docs/results/inference.md.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path

import torch
from lab.benchmarks.inference import bert_cases, latency_table, measure_cases
from transformers.utils import logging

from hf_td.analysis.record import environment
from hf_td.files import append_json_line, read_json_lines, write_text

RESULTS = Path(__file__).parents[1] / "docs" / "results"
SEED = 0
TITLE = """# How fast compact models are

Forwards of random models of the size of BERT-base, and of DistilBERT's. Each model ran in turn with
the dense one in one process. Each round made two forwards of both models and gave one ratio.
Figures are medians over the rounds, with quartiles in brackets. Made by
`python scripts/bench_inference.py --report` from inference.jsonl, where every line has its hardware
and versions.

"""


def parse(arguments: list[str]) -> Namespace:
    """Return the options of a command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU")
    parser.add_argument("--rounds", type=int, default=9, help="comparisons of each pair")
    parser.add_argument("--multiple-of", type=int, default=8, help="divides all compact widths")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--report", action="store_true", help="make the table, measure nothing")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Measure the cases and append a line for each, or make the table of all lines."""
    options = parse(arguments)
    lines = options.results / "inference.jsonl"
    if options.report:
        table = latency_table(read_json_lines(lines))
        write_text(options.results / "inference.md", TITLE + table + "\n")
        return
    logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    settings = {"command": arguments, "seed": SEED, "multiple_of": options.multiple_of}
    facts = {**settings, **environment()}
    cases = bert_cases(multiple_of=options.multiple_of)
    for record in measure_cases(cases, rounds=options.rounds):
        append_json_line(lines, {**record, **facts})
        size = f"{record['batch']} x {record['length']}"
        times = record["speedup"]["median"]
        print(f"{record['case']} {record['sparsity']:.0%}, {size}: {times:.2f}x", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
