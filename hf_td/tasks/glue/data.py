"""Loads a task from the Hub, a local folder or the built-in generator, and tokenises it."""

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import datasets

from . import acceptability
from .checks import check_columns, check_labels, check_splits
from .folder import load_from_folder
from .fragments import whole_texts
from .hub import is_path, load_from_hub
from .subsets import check_size, first_rows, hold_out, random_subset
from .tasks import Task, get_task

if TYPE_CHECKING:  # transformers takes seconds to import
    from transformers import PreTrainedTokenizerBase

GLUE_DATASET = "nyu-mll/glue"
BUILTIN = "builtin"
_INSTEAD = f"the built-in task (--task_name {acceptability.NAME})"

Splits = TypeVar("Splits", datasets.Dataset, datasets.DatasetDict)


def load_task(
    task: str | Task,
    dataset_name: str = GLUE_DATASET,
    *,
    max_train_samples: int | None = None,
    max_eval_samples: int | None = None,
    drop_fragments: bool = False,
    held_out: int | None = None,
    seed: int = 0,
) -> datasets.DatasetDict:
    """Load the training split and the validation splits of a task, checked against the task.

    The built-in task is generated with its default sizes and seed, so that every run sees the same
    sentences; it is used for the task `acceptability` unless another data set is named.

    Args:
        task: The task or its name.
        dataset_name: A local folder (see `folder.load_from_folder`), a Hub id, or `builtin`.
        max_train_samples: Keep a random subset of at most this many training rows.
        max_eval_samples: Keep at most this many rows, the first, of each validation split.
        drop_fragments: Leave out training rows whose text is part of another row's: most rows of
            the training set of SST-2 are phrases, while its validation set has whole sentences.
        held_out: Evaluate on this many random rows that are held out of the training set (after
            fragments are left out) instead of on the validation set.
        seed: The seed of the random subset.

    Raises:
        FileNotFoundError: The folder, the data set, or the task in the folder does not exist.
        NotADirectoryError: It is a file.
        ConnectionError: The Hub cannot be reached and the data are not in the cache.
        ValueError: The task is unknown, a size is not positive, or the data do not fit the task: a
            split or column is missing, a text is missing, a label is out of range.
    """
    task = get_task(task)
    check_size("max_train_samples", max_train_samples)
    check_size("max_eval_samples", max_eval_samples)
    check_size("held_out", held_out)
    found = _load(task, dataset_name)
    splits = _checked_splits(found, task, dataset_name)
    subsets = datasets.DatasetDict()
    train = _whole_rows(splits["train"], task) if drop_fragments else splits["train"]
    if held_out is not None:
        train, held = hold_out(train, held_out)
        splits |= dict.fromkeys(task.validation_splits, held)
    subsets["train"] = random_subset(train, max_train_samples, seed)
    for name in task.validation_splits:
        subsets[name] = first_rows(splits[name], max_eval_samples)
    return subsets


def tokenize(
    dataset: Splits, task: str | Task, tokenizer: "PreTrainedTokenizerBase", max_length: int = 128
) -> Splits:
    """Tokenise the task's text columns, and keep the column `label` under the name `labels`.

    All other columns are removed; the order of the rows stays. Texts are truncated and not padded:
    pad each batch with `transformers.DataCollatorWithPadding`.

    Args:
        dataset: One split or a dict of splits, as `load_task` returns them.
        task: The task or its name.
        tokenizer: The model's tokenizer.
        max_length: The most tokens in a row, special tokens included.

    Raises:
        ValueError: No task has this name.
    """
    task = get_task(task)
    if isinstance(dataset, datasets.Dataset):
        return _tokenize_split(dataset, task, tokenizer, max_length)
    splits = {
        name: _tokenize_split(split, task, tokenizer, max_length) for name, split in dataset.items()
    }
    return datasets.DatasetDict(splits)


def label_names(dataset: datasets.Dataset | datasets.DatasetDict) -> list[str] | None:
    """Return the names of the classes in id order, or None where the data do not name them."""
    split = next(iter(dataset.values())) if isinstance(dataset, datasets.DatasetDict) else dataset
    feature = split.features.get("label", split.features.get("labels"))
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def _load(task: Task, dataset_name: str) -> datasets.DatasetDict:
    """Load the splits from wherever `dataset_name` says."""
    is_builtin_task = task.name == acceptability.NAME
    if dataset_name == BUILTIN and not is_builtin_task:
        raise ValueError(
            f"The built-in data are for the task {acceptability.NAME!r}, not {task.name!r}. Choose "
            f"that task, or give a folder or a Hub id such as {GLUE_DATASET!r} for {task.name!r}."
        )
    if is_builtin_task and dataset_name in (BUILTIN, GLUE_DATASET):
        return acceptability.generate()
    folder = Path(dataset_name).expanduser()
    if folder.is_dir():
        return load_from_folder(folder, task.name, ("train", *task.validation_splits))
    _check_hub_id(dataset_name)
    return load_from_hub(dataset_name, task.name, builtin=_INSTEAD)


def _check_hub_id(dataset_name: str) -> None:
    """Raise an OSError where a name that can only be a path leads to no folder."""
    if Path(dataset_name).expanduser().is_file():
        raise NotADirectoryError(
            f"{dataset_name} is a file. Give the folder that has it, with a file for each split, "
            "such as train.csv and validation.csv."
        )
    if is_path(dataset_name):
        raise FileNotFoundError(
            f"The folder {dataset_name} does not exist. Give an existing folder, a Hub id such as "
            f"{GLUE_DATASET!r}, or {BUILTIN!r} with the task {acceptability.NAME!r}."
        )


def _checked_splits(
    found: datasets.DatasetDict, task: Task, dataset_name: str
) -> datasets.DatasetDict:
    """The task's splits, checked; scores as float32, as a regression loss wants them."""
    check_splits(found, task, dataset_name)
    splits = datasets.DatasetDict()
    for name in ("train", *task.validation_splits):
        split = found[name]
        check_columns(split, task, f"{dataset_name}, split {name}")
        check_labels(split, task, f"{dataset_name}, split {name}")
        if task.is_regression:
            split = split.cast_column("label", datasets.Value("float32"))
        splits[name] = split
    return splits


def _whole_rows(split: datasets.Dataset, task: Task) -> datasets.Dataset:
    texts = zip(*(split[column] for column in task.sentences), strict=True)
    # The separator is a word of its own, so that a pair is part of another only as a pair.
    return split.select(whole_texts([" \0 ".join(row) for row in texts]))


def _tokenize_split(
    split: datasets.Dataset, task: Task, tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> datasets.Dataset:
    def encode(batch):
        texts = [batch[column] for column in task.sentences]
        return tokenizer(*texts, truncation=True, max_length=max_length)

    removed = [name for name in split.column_names if name != "label"]
    encoded = split.map(encode, batched=True, remove_columns=removed, desc="Tokenising")
    return encoded.rename_column("label", "labels")
