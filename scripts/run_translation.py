"""Trains an encoder-decoder to translate with targeted dropout; BLEU at every sparsity."""

from __future__ import annotations

from collections.abc import Sequence

from hf_td.tasks.experiment import (
    TRANSLATION,
    TranslationArguments,
    parse_arguments,
    report,
    run_experiment,
    run_program,
    translation_problem,
)
from hf_td.training import TargetedDropoutSeq2SeqArguments


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiment that the command line, or one JSON or YAML file, describes."""
    arguments = parse_arguments(
        argv,
        TranslationArguments,
        description=__doc__ or "",
        training=TargetedDropoutSeq2SeqArguments,  # pyright: ignore[reportArgumentType]
        defaults=TRANSLATION,
    )
    results = run_experiment(arguments, translation_problem)
    if arguments.training.should_save:
        report(results, str(arguments.training.output_dir))


if __name__ == "__main__":
    run_program(main)
