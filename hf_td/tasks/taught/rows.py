"""Loads a transfer set, and adds to the training rows what a teacher labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import datasets
from transformers import PreTrainedModel

from hf_td.tasks.data.splits import TRAIN, check_columns, check_text, is_text, load_rows
from hf_td.tasks.labels.encoding import TARGETS
from hf_td.tasks.task import Task
from hf_td.training import TargetedDropoutArguments
from hf_td.training.augmentation import VariantDataset
from hf_td.training.augmentation.dataset import no_label

logger = logging.getLogger(__name__)


def load_transfer_set(
    name: str | None,
    columns: Sequence[str],
    tokenizer: Any,
    max_length: int,
    labels: Sequence[str] = ("label",),
) -> datasets.Dataset | None:
    """Load and tokenise texts without labels; rows without a text are passed over.

    Args:
        name: a file, a folder, or an id on the Hub, of which the split `train` is read; None
            returns None.
        columns: columns with the texts, one or two. For one, the only column with text will do.
        tokenizer: tokenizer of the model.
        max_length: maximum number of tokens in a row, special tokens included.
        labels: columns that have the labels of the task, and never texts.

    Raises:
        ValueError: the data cannot be read, or a column is missing or empty.
        OSError: the data do not exist.
    """
    if name is None:
        return None
    rows = load_rows(name, builtin="a local file of text")
    chosen = _text_columns(rows, columns, labels)
    splits = datasets.DatasetDict({TRAIN: rows})
    check_columns(splits, chosen, "--transfer_set")
    check_text(splits, chosen, "--transfer_set")
    filled = rows.filter(lambda row: all((row[column] or "").strip() for column in chosen))
    if len(filled) < len(rows):
        logger.warning(
            "warning: %d of %d rows of the transfer set %s have no text, and are passed over",
            len(rows) - len(filled),
            len(rows),
            name,
        )
    if not len(filled):
        raise ValueError(f"the transfer set {name} has no row with a text in {', '.join(chosen)}.")

    def encode(batch: Any) -> Any:
        texts = [[text.strip() for text in batch[column]] for column in chosen]
        return tokenizer(*texts, truncation=True, max_length=max_length)

    return filled.map(encode, batched=True, remove_columns=filled.column_names, desc="Tokenising")


def _text_columns(
    rows: datasets.Dataset, columns: Sequence[str], labels: Sequence[str]
) -> list[str]:
    others = [name for name in rows.column_names if name not in labels]
    texts = [name for name in others if is_text(rows.features[name])]
    if len(columns) == 1 and columns[0] not in rows.column_names and len(texts) == 1:
        return texts
    return list(columns)


def taught_rows(task: Task, training: TargetedDropoutArguments, model: PreTrainedModel) -> Any:
    """Return the rows to train on: with a teacher also those that it labels.

    Args:
        task: the task, with its transfer set and its number of variants.
        training: training arguments of one seed.
        model: model to train, whose embeddings say which words are near.

    Raises:
        ValueError: a row has several labels, and there is a transfer set.
    """
    rows = task.train_data
    if training.teacher is None:
        return rows
    if task.transfer_data is not None:
        rows = _joined(rows, task.transfer_data)
    if not task.variants:
        return rows
    table = model.get_input_embeddings().get_parameter("weight")
    return VariantDataset(rows, task.variants, task.processor, table, seed=training.seed)


def _joined(rows: datasets.Dataset, transfer: datasets.Dataset) -> datasets.Dataset:
    """Append rows without labels; classes become numbers, for -100 is no class."""
    label = rows[0][TARGETS]
    if isinstance(label, list):
        raise ValueError(
            "a teacher cannot label rows of several labels at once. Leave --transfer_set out."
        )
    kind = datasets.Value("float32" if isinstance(label, float) else "int64")
    labels = [no_label(label)] * len(transfer)
    extra: Any = transfer.add_column(TARGETS, labels, feature=kind)  # type: ignore
    plain = rows.cast_column(TARGETS, kind)
    return datasets.concatenate_datasets([plain, extra.select_columns(plain.column_names)])
