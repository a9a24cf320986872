"""Fine-tunes a causal language model with targeted dropout; perplexity at every sparsity."""

from __future__ import annotations

from collections.abc import Sequence

from hf_td.tasks.experiment import (
    OF_ONE_SIZE,
    TextArguments,
    language_modelling_problem,
    parse_arguments,
    report,
    run_experiment,
    run_program,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiment that the command line, or one JSON or YAML file, describes."""
    arguments = parse_arguments(
        argv, TextArguments, description=__doc__ or "", defaults=OF_ONE_SIZE
    )
    results = run_experiment(arguments, language_modelling_problem)
    if arguments.training.should_save:
        report(results, str(arguments.training.output_dir))


if __name__ == "__main__":
    run_program(main)
