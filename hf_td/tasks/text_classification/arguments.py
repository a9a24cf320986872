"""The arguments that name the user's texts."""

from __future__ import annotations

from dataclasses import dataclass

from hf_td.tasks.experiment.arguments import argument
from hf_td.tasks.labels import LabelArguments
from hf_td.tasks.taught.arguments import TaughtArguments


@dataclass(kw_only=True)
class TextClassificationArguments(LabelArguments, TaughtArguments):
    """The texts and labels to fine-tune on."""

    text_column: str = argument("text", "column with the texts")
    text_pair_column: str | None = argument(
        None, "column with the second texts, for a task on pairs"
    )
    max_seq_length: int = argument(128, "longer texts are truncated to this number of tokens")

    @property
    def text_columns(self) -> list[str]:
        """The columns with texts, one or two."""
        pair = self.text_pair_column
        return [self.text_column] if pair is None else [self.text_column, pair]
