"""Fine-tunes a model on a GLUE task with targeted dropout, and measures it at every sparsity."""

from __future__ import annotations

from collections.abc import Sequence

from hf_td.tasks.errors import run_program
from hf_td.tasks.registry import run_task


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiment that the command line, or one JSON or YAML file, describes."""
    run_task("glue", argv, __doc__)


if __name__ == "__main__":
    run_program(main)
