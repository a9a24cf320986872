"""Loads the user's texts and labels, prepared for a Trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import datasets
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from hf_td.tasks.data.splits import TEST, TRAIN, VALIDATION, check_samples, load_splits
from hf_td.tasks.data.subsets import first_rows, random_subset
from hf_td.tasks.labels import (
    Labels,
    check_labels,
    check_metric,
    encode,
    label_metrics,
    read_labels,
    warn_if_alike,
)
from hf_td.tasks.labels.encoding import TARGETS
from hf_td.tasks.text_classification.arguments import TextClassificationArguments
from hf_td.tasks.text_classification.texts import check_texts


@dataclass(frozen=True, kw_only=True)
class TextData:
    """Texts and labels, prepared for a model and its Trainer.

    Attributes:
        labels: the meaning of the labels. `labels.config` has the arguments of `from_pretrained`.
        train: rows with `input_ids` and `labels`.
        evaluation: rows to measure on; a dictionary of `validation` and `test` if there are both.
        measured: the split that is measured, in words.
        metric: name of the main metric, as in the result of `Trainer.evaluate` after `eval_`.
        tokenizer: tokenizer of the model.
    """

    labels: Labels
    train: datasets.Dataset
    evaluation: datasets.Dataset | dict[str, datasets.Dataset]
    measured: str
    metric: str
    tokenizer: PreTrainedTokenizerBase

    @property
    def for_trainer(self) -> dict[str, Any]:
        """Arguments of `Trainer`: the data, the collator, the metrics and the tokenizer."""
        return {
            "train_dataset": self.train,
            "eval_dataset": self.evaluation,
            "data_collator": DataCollatorWithPadding(self.tokenizer),
            "compute_metrics": label_metrics(self.labels),
            "processing_class": self.tokenizer,
        }


def load_texts(tokenizer: PreTrainedTokenizerBase, **arguments: Any) -> TextData:
    """Load texts and labels from files, a folder or the Hub.

    Args:
        tokenizer: tokenizer of the model.
        **arguments: fields of `TextClassificationArguments`, the arguments of
            scripts/run_classification.py: `train_file="reviews.csv"`, `text_column="review"`,
            `label_column="stars"` and so on.

    Raises:
        ValueError: the data cannot be read, or do not fit; the message says what to change.
        OSError: the data do not exist.
        TypeError: there is no such argument.
    """
    return prepare_texts(TextClassificationArguments(**arguments), tokenizer)


def prepare_texts(
    arguments: TextClassificationArguments, tokenizer: PreTrainedTokenizerBase
) -> TextData:
    """Load and tokenise the data that the arguments name; raises as `load_texts`."""
    check_samples(arguments)
    splits, measured = load_splits(
        arguments,
        "your files (--train_file)",
        label=arguments.label_columns[0],
        test_file=arguments.test_file,
        check=lambda whole: _check_rows(whole, arguments),
    )
    labels = read_labels(splits, arguments)
    metric = check_metric(labels, arguments.metric)
    encoded = {split: encode(rows, labels, str(split)) for split, rows in splits.items()}
    chosen = {split: _sample(rows, str(split), arguments) for split, rows in encoded.items()}
    ready = {n: _tokenised(rows, arguments, tokenizer) for n, rows in chosen.items()}
    several = TEST in ready
    return TextData(
        labels=labels,
        train=ready[TRAIN],
        evaluation={n: ready[n] for n in (VALIDATION, TEST)} if several else ready[VALIDATION],
        measured=measured,
        metric=f"{VALIDATION}_{metric}" if several else metric,
        tokenizer=tokenizer,
    )


def _check_rows(splits: datasets.DatasetDict, arguments: TextClassificationArguments) -> None:
    """Raise ValueError for a wrong column, or a row without a text or a label."""
    check_texts(splits, arguments.text_columns, ["--text_column", "--text_pair_column"])
    check_labels(splits, arguments)


def _sample(
    rows: datasets.Dataset, split: str, arguments: TextClassificationArguments
) -> datasets.Dataset:
    if split == TRAIN:
        return random_subset(rows, arguments.max_train_samples)
    measured = first_rows(rows, arguments.max_eval_samples)
    warn_if_alike(measured, split)
    return measured


def _tokenised(
    rows: datasets.Dataset,
    arguments: TextClassificationArguments,
    tokenizer: PreTrainedTokenizerBase,
) -> datasets.Dataset:
    def batch(columns: Any) -> Any:
        texts = [columns[name] for name in arguments.text_columns]
        return tokenizer(*texts, truncation=True, max_length=arguments.max_seq_length)

    removed = [name for name in rows.column_names if name != TARGETS]
    return rows.map(batch, batched=True, remove_columns=removed, desc="Tokenising")
