"""The errors of hf_td.tasks.errors, under their old name."""

from hf_td.tasks.errors import UsageError, blaming_input, run_program

__all__ = ["UsageError", "blaming_input", "run_program"]
