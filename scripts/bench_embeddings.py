"""Measures sentence embeddings after pruning without training: correlations on STS-B.

    python scripts/bench_embeddings.py --data /data/glue/stsb

The folder has STS-B's train.parquet and validation.parquet. Calibrates on sentences of the training
split, and measures on the validation split. Appends a line of JSON for each way of pruning and
sparsity to docs/results/embeddings.jsonl, and makes the table of docs/results/embeddings.md.
"""

from __future__ import annotations

import random
import shlex
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from lab.benchmarks.embeddings import Pairs, embeddings_table, measure_embeddings

from hf_td.analysis.record import environment
from hf_td.files import append_json_line, read_records, write_text
from hf_td.tasks.data.files import read_file
from hf_td.tasks.errors import run_program
from hf_td.tasks.models import BUILTIN_MODEL, locate

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "embeddings.jsonl"
PAGE = """\
# Sentence embeddings without training

Heads and neurons of one sentence encoder were removed in one shot, the same fraction in every
layer, and nothing was trained. The figures are correlations of cosines with the scores of people on
the validation split of STS-B. Importance by activation is measured on sentences of the training
split, and so is what compensation fits. An encoder has no loss, so there is no importance by
gradients. Made by `python scripts/bench_embeddings.py` from embeddings.jsonl, where every line has
its command, hardware and versions.

{}
"""


def parse(argv: Sequence[str] | None) -> Namespace:
    """Return the options."""
    parser = ArgumentParser(
        description=__doc__, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with STS-B's parquet")
    parser.add_argument("--model", default=BUILTIN_MODEL, help="folder of a SentenceTransformer")
    parser.add_argument("--texts", type=int, default=256, help="sentences to calibrate on")
    parser.add_argument("--seed", type=int, default=0, help="draws these sentences")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the lines")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, append the lines and make the page."""
    options = parse(argv)
    training = list(read_file(options.data / "train.parquet")["sentence1"])
    texts = random.Random(options.seed).sample(training, options.texts)
    rows = read_file(options.data / "validation.parquet")
    pairs = Pairs(list(rows["sentence1"]), list(rows["sentence2"]), list(rows["label"]))
    words = sys.argv[1:] if argv is None else argv
    facts = {
        "model": options.model,
        "data": "stsb",
        "split": "validation",
        "pairs": len(pairs.scores),
        "texts": options.texts,
        "seed": options.seed,
        "command": shlex.join(["python", "scripts/bench_embeddings.py", *words]),
        "environment": environment(),
    }
    for record in measure_embeddings(locate(options.model), texts, pairs):
        append_json_line(options.results, {**record, **facts})
        print(
            f"{record['sparsity']:.0%} {record['way']}: Spearman {record['spearman']:.4f}",
            flush=True,
        )
    page = PAGE.format(embeddings_table(read_records(options.results)))
    write_text(options.results.with_suffix(".md"), page)


if __name__ == "__main__":
    run_program(main)
