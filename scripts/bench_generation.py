r"""Measure what compact language models write, how fast, and how large they are.

    python scripts/bench_generation.py --model_name_or_path runs/smollm2 --recipe language_model \
        --dataset_name wikitext-2 --train_split "train[:10%]" --validation_split test \
        --block_size 256 --calibration_samples 8 --level unit --sparsities 0 0.25 0.5 --use_cpu

Appends a line of JSON for each sparsity to docs/results/llm-generation.jsonl, from which
scripts/sweep_report.py makes a part of its page. Other options are those of scripts/run_clm.py.
"""

from __future__ import annotations

import shlex
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

import torch
from lab.benchmarks.writing import measure_writing

from hf_td.analysis.record import environment
from hf_td.files import append_json_line
from hf_td.tasks.errors import UsageError, run_program
from hf_td.tasks.models import find_model
from hf_td.tasks.registry import TASKS

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "llm-generation.jsonl"


def parse(argv: Sequence[str] | None) -> tuple[Namespace, list[str]]:
    """Return the options of this program, and the others, which are of run_clm."""
    parser = ArgumentParser(
        description=__doc__, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU")
    parser.add_argument("--rounds", type=int, default=5, help="comparisons of each pair")
    parser.add_argument("--written", type=int, default=32, help="tokens that each row gets")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the lines")
    options, rest = parser.parse_known_args(argv)
    for name in ("threads", "written"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name} is at least 1, got {getattr(options, name)}.")
    return options, rest


def main(argv: Sequence[str] | None = None) -> None:
    """Measure each sparsity and append its line."""
    options, rest = parse(argv)
    kind = TASKS["language_modelling"]
    arguments = kind.parse([*rest, "--output_dir", "unused"])
    torch.set_num_threads(options.threads)
    words = sys.argv[1:] if argv is None else argv
    command = shlex.join(["python", "scripts/bench_generation.py", *words])
    facts = {"command": command, "environment": environment()}
    task = kind.make(arguments, find_model(arguments.model))
    for record in measure_writing(task, arguments, rounds=options.rounds, written=options.written):
        append_json_line(options.results, {**record, **facts})
        faster = [f"{s['speedup']['median']:.2f}x at batch {s['batch']}" for s in record["speed"]]
        print(f"{record['sparsity']:.0%} pruned: {', '.join(faster)}", flush=True)


if __name__ == "__main__":
    run_program(main)
