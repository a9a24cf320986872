r"""Measures how many bytes a pruned model takes, and how well it does, in each type of number.

    python scripts/bench_files.py --label "75 % of units, trimmed" --sparsity 0.75 \
        --model_name_or_path runs/small/seed-42 --task_name sst2 --dataset_name glue --level unit

Appends a line of JSON each for float32, bfloat16 and int8 (an ONNX graph with weights in 8 bits) to
docs/results/files.jsonl, and makes the table of docs/results/files.md. Other options are those of
scripts/run_glue.py; the model is a fine-tuned one.
"""

from __future__ import annotations

import shlex
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from lab.benchmarks.files import files_table, measure_files

from hf_td.analysis.record import environment
from hf_td.files import append_json_line, read_records, write_text
from hf_td.tasks.errors import run_program
from hf_td.tasks.models import find_model
from hf_td.tasks.registry import TASKS

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "files.jsonl"
PAGE = """\
# How many bytes a small model takes

The validation score of one fine-tuned model, pruned in one shot and saved in three types of number.
MB are those of the weights' file. Made by `python scripts/bench_files.py` from files.jsonl, where
every line has its command, hardware and versions.

{}
"""


def parse(argv: Sequence[str] | None) -> tuple[Namespace, list[str]]:
    """Return the options of this program, and the others, which are of run_glue."""
    parser = ArgumentParser(
        description=__doc__, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--label", required=True, help="name of the model in the table")
    parser.add_argument("--sparsity", type=float, default=0.0, help="to prune to, in [0, 1]")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the lines")
    return parser.parse_known_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, append the lines and make the page."""
    options, rest = parse(argv)
    kind = TASKS["glue"]
    arguments = kind.parse([*rest, "--output_dir", "unused"])
    task = kind.make(arguments, find_model(arguments.model))
    words = sys.argv[1:] if argv is None else argv
    facts = {
        "label": options.label,
        "sparsity": options.sparsity,
        "metric": task.metric,
        "split": task.split,
        "command": shlex.join(["python", "scripts/bench_files.py", *words]),
        "environment": environment(),
    }
    for record in measure_files(task, arguments, options.sparsity):
        append_json_line(options.results, {**record, **facts})
        size = f"{record['bytes']:,} bytes"  # pyright: ignore
        print(f"{record['type']}: {size}, {task.metric} {record[task.metric]:.4f}", flush=True)
    page = PAGE.format(files_table(read_records(options.results)))
    write_text(options.results.with_suffix(".md"), page)


if __name__ == "__main__":
    run_program(main)
