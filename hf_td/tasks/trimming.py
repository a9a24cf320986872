"""A source of a model without the tokens that the training text does not use."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from hf_td.tasks.errors import UsageError, blaming_input
from hf_td.tasks.models import ModelSource, Tokenizer
from hf_td.tasks.task import Task
from hf_td.vocabulary import TrimReport, trim_vocabulary


@dataclass(frozen=True, kw_only=True)
class TrimmedSource(ModelSource):
    """A source whose models and tokenizer have the tokens of a text alone.

    Attributes:
        whole: the tokenizer with all tokens.
        trimmed: the tokenizer with those that are kept.
        report: which these are.
    """

    whole: Tokenizer
    trimmed: Tokenizer
    report: TrimReport

    def load_tokenizer(self) -> Tokenizer:
        """Return the trimmed tokenizer."""
        return self.trimmed

    def load_model(self, auto_class: Any, config: Any, **extra: Any) -> Any:
        """Load the model, and take the other tokens out."""
        model = super().load_model(auto_class, config, **extra)
        trim_vocabulary(model, self.whole, keep=self.report.kept)
        return model


def trimmed_source(source: ModelSource, task: Task) -> TrimmedSource:
    """Return a source with the tokens of a task's training data and transfer set.

    Args:
        source: with all tokens.
        task: made for that source.

    Raises:
        UsageError: the model is untrained, the task is not one of text, or the vocabulary cannot be
            trimmed.
    """
    if source.is_new:
        raise UsageError(
            "--trim_vocabulary is for a pretrained model. An untrained one has the vocabulary of "
            "the tokenizer that you give it: --tokenizer_name."
        )
    with blaming_input():
        taught = set() if task.transfer_data is None else _tokens(task.transfer_data)
        tokens = sorted(_tokens(task.train_data) | taught)
        trimmed, report = trim_vocabulary(task.make_model(), task.processor, keep=tokens)
    given = {field.name: getattr(source, field.name) for field in fields(source)}
    return TrimmedSource(**given, whole=task.processor, trimmed=trimmed, report=report)


def _tokens(rows: Any) -> set[int]:
    """Return the ids of the tokens in all rows, inputs and labels of text."""
    columns = [
        name for name in ("input_ids", "labels") if name in getattr(rows, "column_names", ())
    ]
    if "input_ids" not in columns:
        raise UsageError("--trim_vocabulary is for tasks of text, and these rows have no tokens.")
    plain = rows.with_format(None)
    lists = (row for name in columns for row in plain[name] if isinstance(row, list))
    # Of several labels a row has numbers that are no tokens, and floats.
    return {token for row in lists for token in row if isinstance(token, int) and token >= 0}
