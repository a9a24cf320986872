"""Measures how near `prune_to` comes to the speed that was wished for.

    python scripts/bench_wishes.py --model builtin-minilm --label MiniLM
    python scripts/bench_wishes.py --label BERT-base

Without --model it takes random weights of the size of BERT-base, on which times do not depend.
Appends a line of JSON for each batch and speed-up to docs/results/wishes.jsonl, and makes the table
of docs/results/wishes.md.
"""

from __future__ import annotations

import shlex
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.benchmarks.training.cases import BERT
from lab.benchmarks.wishes import measure_wishes, wishes_table
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification
from transformers.utils import logging

from hf_td.analysis.record import environment
from hf_td.files import append_json_line, read_json_lines, write_text
from hf_td.tasks.errors import UsageError, run_program
from hf_td.tasks.models import locate

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "wishes.jsonl"
PAGE = """\
# Speeds that were wished for, and those that pruning reached

`prune_to(model, speedup=...)` removed heads and neurons until a forward of 128 tokens a row was as
many times as fast as wanted, on the CPU. *Got* is what its report says after measuring the result
anew: the median over searches that each began with a new model, with the range in brackets. Made
by `python scripts/bench_wishes.py` from wishes.jsonl, where every line has its command, hardware
and versions.

{}
"""


def parse(argv: Sequence[str] | None) -> Namespace:
    """Return the options."""
    parser = ArgumentParser(
        description=__doc__, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--label", required=True, help="name of the model in the table")
    parser.add_argument("--model", help="folder or name of a classifier or an encoder")
    parser.add_argument("--speedups", type=float, nargs="+", default=[1.5, 2.0, 3.0, 4.0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="rows")
    parser.add_argument("--length", type=int, default=128, help="tokens of a row")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--rounds", type=int, default=3, help="searches for each wish")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the lines")
    options = parser.parse_args(argv)
    for name in ("length", "threads", "rounds"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name} is at least 1, got {getattr(options, name)}.")
    return options


def make_model(name: str | None) -> Any:
    """Return a classifier in eval mode, with random weights if there is no name."""
    if name is None:
        return BertForSequenceClassification(BERT.bert()).eval()
    return AutoModelForSequenceClassification.from_pretrained(locate(name)).eval()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, append the lines and make the page."""
    options = parse(argv)
    logging.disable_progress_bar()
    words = sys.argv[1:] if argv is None else argv
    facts = {
        "label": options.label,
        "command": shlex.join(["python", "scripts/bench_wishes.py", *words]),
        "environment": environment(),
    }
    for record in measure_wishes(
        lambda: make_model(options.model),
        options.speedups,
        options.batches,
        length=options.length,
        threads=options.threads,
        rounds=options.rounds,
    ):
        append_json_line(options.results, {**record, **facts})
        got = ", ".join(f"{one:.2f}" for one in record["got"]) or record["refused"]
        print(f"batch {record['batch']}: wanted {record['wanted']}, got {got}", flush=True)
    page = PAGE.format(wishes_table(read_json_lines(options.results)))
    write_text(options.results.with_suffix(".md"), page)


if __name__ == "__main__":
    run_program(main)
