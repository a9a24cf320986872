"""Rows that only a teacher labels: a transfer set, and variants of the training texts."""

from hf_td.tasks.taught.arguments import TaughtArguments
from hf_td.tasks.taught.rows import load_transfer_set, taught_rows

__all__ = ["TaughtArguments", "load_transfer_set", "taught_rows"]
