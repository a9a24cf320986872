"""Take every model type that transformers registers the whole way, and write the results.

    python scripts/coverage.py --heads --write docs/families.md
    python scripts/coverage.py --types bert,llama --results build/two.jsonl

With `--heads` every task head of the types that an Auto class builds is pruned, made compact and
compared too. Each type and each head appends a line of JSON, with the commit, to the results. Those
that have a line are skipped. The exit status is 1 if a compact model differs from the masked one.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path

from lab.coverage.heads import kinds_of_heads
from lab.coverage.page import coverage_section, summary, write_section
from lab.coverage.run import finished, registered_types, survey_all
from lab.coverage.survey import SEED

from hf_td.analysis.record import environment

RESULTS = Path("build") / "coverage.jsonl"


def parse(arguments: list[str]) -> Namespace:
    """Return the options of a command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--types", help="model types, separated by commas; all by default")
    parser.add_argument("--heads", action="store_true", help="survey the task heads too")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of JSON lines")
    parser.add_argument("--processes", type=int, default=2, help="number of processes")
    parser.add_argument("--write", type=Path, help="page whose coverage section is replaced")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Survey, report, and return 1 if there was a mismatch, else 0."""
    options = parse(arguments)
    types = options.types.split(",") if options.types else registered_types()
    heads = [h for h in kinds_of_heads() if h.partition(":")[0] in set(types)]
    names = [*types, *(heads if options.heads else [])]
    survey_all(options.results, names, options.processes)
    records = [record for t, record in finished(options.results).items() if t in set(names)]
    if options.write is not None:
        command = " ".join(["python scripts/coverage.py", *arguments])
        facts = {**environment(), "command": command, "seed": SEED}
        write_section(options.write, coverage_section(records, facts))
    print(summary(records))
    return int(any(record["outcome"] == "mismatch" for record in records))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
