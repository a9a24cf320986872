r"""Measures how much fine-tuned models depend on the weights that pruning removes, and why.

    python scripts/dependence.py --models runs/plain/seed-0 runs/targeted/seed-0 \
        --labels "plain fine-tuning" "targeted dropout" --output docs/results/dependence \
        --task_name sst2 --dataset_name glue --level weight --sparsities 0.75 0.9

All other options are those of scripts/run_glue.py. Level, importance and exclusions determine what
pruning removes. The loss is measured on the first training rows.
"""

from __future__ import annotations

import shlex
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from hf_td.analysis import Dependence, measure_dependence
from hf_td.analysis.dependence_page import dependence_record, dependence_tables, plot_dependence
from hf_td.analysis.record import environment
from hf_td.files import write_json, write_text
from hf_td.tasks.errors import UsageError, run_program
from hf_td.tasks.experiment.arguments import Arguments
from hf_td.tasks.experiment.calibration import first_batches, how_to_prune
from hf_td.tasks.experiment.parsing import parse_arguments
from hf_td.tasks.glue.task import (
    GlueArguments,
    glue_task,
)
from hf_td.tasks.models import find_model

INTRODUCTION = """\
What pruning removes is d (of a unit: the weights that read it). To second order the loss changes by
-g·d (linear) + ½ d·Hd (self), with the gradient g and the Hessian H; beside that stands the true
change. The prediction is local, and d is no small step. The cross term with what is kept, θ·Hd over
the weights that stay, is no part of it: it says how much the others come to be needed differently.
In the details, *within* and *between* are a block's own curvature and that with other blocks, and
*predicted* and *true* are for the block alone.
"""


def parse(argv: Sequence[str] | None) -> tuple[Namespace, list[str]]:
    """Parse the options of this program; return the others, which are of run_glue."""
    parser = ArgumentParser(
        description=__doc__, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--models", nargs="+", required=True, help="fine-tuned models")
    parser.add_argument("--labels", nargs="+", help="labels of the models; by default their paths")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="STEM", help="output files without suffix"
    )
    parser.add_argument("--title", default="The loss around fine-tuned models", help="of the page")
    parser.add_argument("--rows", type=int, default=128, help="training rows to measure on")
    parser.add_argument("--batch_size", type=int, default=32, help="rows at a time")
    return parser.parse_known_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write STEM.md, STEM.json, STEM.png and STEM.svg."""
    options, rest = parse(argv)
    labels = options.labels or options.models
    if len(labels) != len(set(labels)) or len(labels) != len(options.models):
        raise UsageError(f"each of {options.models} needs a label of its own, got {labels}")
    measured = {}
    for label, model in zip(labels, options.models, strict=True):
        words = ["--model_name_or_path", model, "--output_dir", str(options.output), *rest]
        arguments = parse_arguments(words, GlueArguments)
        measured[label] = measure(arguments, options.rows, options.batch_size)
        for found in measured[label]:
            change = f"predicted {found.predicted:+.4f}, true {found.true:+.4f}"
            print(f"{label}, {found.sparsity:.0%} removed: {change}", flush=True)
    words = sys.argv[1:] if argv is None else argv
    command = shlex.join(["python", "scripts/dependence.py", *words])
    facts = {"command": command, "environment": environment()}
    write_json(
        options.output.with_suffix(".json"), {"measured": dependence_record(measured), **facts}
    )
    plot_dependence(measured, options.output, title=options.title)
    plot = f"![{options.title}]({options.output.name}.png)\n"
    source = f"## Where it comes from\n\ncommit `{facts['environment']['commit']}`; all else is in "
    source += f"[{options.output.name}.json]({options.output.name}.json)\n\n```text\n"
    parts = [f"# {options.title}\n", INTRODUCTION, plot, dependence_tables(measured), source]
    page = "\n".join(parts) + f"{facts['command']}\n```\n"
    write_text(options.output.with_suffix(".md"), page)


def measure(arguments: Arguments, rows: int, size: int) -> list[Dependence]:
    """Measure one model at each sparsity."""
    task = glue_task(arguments, find_model(arguments.model))
    device = arguments.training.device
    model = task.make_model()
    model.to(device)  # pyright: ignore[reportArgumentType]  # a decorator hides its type
    batches = first_batches(task, rows, size, device)
    how = how_to_prune(model, task, arguments)
    return [
        measure_dependence(model, sparsity, batches, **how)
        for sparsity in arguments.sparsities
        if sparsity > 0
    ]


if __name__ == "__main__":
    run_program(main)
