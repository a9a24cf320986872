"""Measure how fast compact models are: random weights of the size of BERT-base, or of a Llama.

    python scripts/bench_inference.py --threads 1 --rounds 9
    python scripts/bench_inference.py --generate --threads 2 --rounds 3
    python scripts/bench_inference.py --report

The first two append a line of JSON for each case and size to docs/results/inference.jsonl: forwards
of a BERT-base, or greedy generation of a Llama of a billion parameters. The third makes tables of
all lines, docs/results/inference.md. `scripts/gpu.sh` runs the first two on a GPU.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lab.benchmarks.generation import generation_table, measure_generation
from lab.benchmarks.inference import SIZES, bert_cases, latency_table, measure_cases
from lab.benchmarks.training.cases import BERT, LLAMA, TINY
from transformers.utils import logging

from hf_td.analysis.record import environment
from hf_td.files import append_json_line, read_records, write_text

RESULTS = Path(__file__).parents[1] / "docs" / "results"
SEED = 0
TITLE = """# How fast compact models are

Forwards of random models of the size of BERT-base, and of DistilBERT's. Each model ran in turn with
the dense one in one process. Each round made two forwards of both models and gave one ratio.
Figures are medians over the rounds, with quartiles in brackets. Made by
`python scripts/bench_inference.py --report` from inference.jsonl, where every line has its hardware
and versions.

"""
GENERATION = """
## Generation

Greedy, with a cache, by a random Llama. Each model took turns with the dense one.

"""


def parse(arguments: list[str]) -> Namespace:
    """Return the options of a command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU")
    parser.add_argument("--rounds", type=int, default=9, help="comparisons of each pair")
    parser.add_argument("--multiple-of", type=int, default=8, help="divides all compact widths")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--sizes", nargs="+", type=_size, default=SIZES, metavar="BATCHxLENGTH")
    parser.add_argument("--generate", action="store_true", help="time generation, not forwards")
    parser.add_argument("--tiny", action="store_true", help="tiny models: tries the command out")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--report", action="store_true", help="make the table, measure nothing")
    return parser.parse_args(arguments)


def _size(text: str) -> tuple[int, int]:
    batch, length = map(int, text.split("x"))
    return batch, length


def main(arguments: list[str]) -> None:
    """Measure the cases and append a line for each, or make the table of all lines."""
    options = parse(arguments)
    lines = options.results / "inference.jsonl"
    if options.report:
        records = read_records(lines)
        generated = generation_table(records)
        tables = latency_table(records) + "\n" + (GENERATION + generated if generated else "")
        write_text(options.results / "inference.md", TITLE + tables)
        return
    logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    settings = {"command": arguments, "seed": SEED, "multiple_of": options.multiple_of}
    facts = {**settings, **environment()}
    for record in _generations(options) if options.generate else _forwards(options):
        append_json_line(lines, {**record, **facts})
        name = record.get("case") or record["model"]
        size = f"{record['batch']} x {record['length']}"
        times = record["speedup"]["median"]
        print(f"{name} {record['sparsity']:.0%}, {size}: {times:.2f}x", flush=True)


def _forwards(options: Namespace) -> Iterator[dict[str, Any]]:
    config = replace(BERT, **TINY).bert() if options.tiny else None
    cases = bert_cases(config, multiple_of=options.multiple_of)
    return measure_cases(cases, options.sizes, rounds=options.rounds, **_place(options))


def _generations(options: Namespace) -> Iterator[dict[str, Any]]:
    small = {"batches": (1, 2), "lengths": (8, 2)} if options.tiny else {}
    shape = replace(LLAMA, **TINY) if options.tiny else LLAMA
    return measure_generation(shape, rounds=options.rounds, **small, **_place(options))


def _place(options: Namespace) -> dict[str, Any]:
    return {"device": options.device, "dtype": getattr(torch, options.precision)}


if __name__ == "__main__":
    main(sys.argv[1:])
