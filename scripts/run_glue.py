"""Fine-tunes a model on a GLUE task with targeted dropout, and measures it at every sparsity."""

from __future__ import annotations

from collections.abc import Sequence

from hf_td.tasks.experiment import (
    DataArguments,
    glue_problem,
    parse_arguments,
    report,
    run_experiment,
    run_program,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiment that the command line, or one JSON or YAML file, describes."""
    arguments = parse_arguments(argv, DataArguments, description=__doc__ or "")
    results = run_experiment(arguments, glue_problem)
    if arguments.training.should_save:
        report(results, str(arguments.training.output_dir))


if __name__ == "__main__":
    run_program(main)
