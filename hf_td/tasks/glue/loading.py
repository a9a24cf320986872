"""Loads a GLUE task from the Hub, from a local folder or from the generator, and tokenises it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import datasets

from hf_td.tasks.data.hub import is_path, load_from_hub
from hf_td.tasks.data.subsets import check_size, first_rows, hold_out, random_subset
from hf_td.tasks.glue import acceptability
from hf_td.tasks.glue.benchmark import GlueTask, get_glue_task
from hf_td.tasks.glue.checks import check_columns, check_labels, check_splits
from hf_td.tasks.glue.folder import load_from_folder
from hf_td.tasks.glue.fragments import whole_texts

if TYPE_CHECKING:  # transformers takes seconds to import
    from transformers import PreTrainedTokenizerBase

GLUE_DATASET = "nyu-mll/glue"
BUILTIN = "builtin"

Splits = TypeVar("Splits", datasets.Dataset, datasets.DatasetDict)


def load_glue(
    task: str | GlueTask,
    dataset_name: str = GLUE_DATASET,
    *,
    max_train_samples: int | None = None,
    max_eval_samples: int | None = None,
    drop_fragments: bool = False,
    held_out: int | None = None,
    seed: int = 0,
) -> datasets.DatasetDict:
    """Load the training and validation splits of a task, and check that they fit it.

    The task `acceptability` is generated, with default sizes and seed, unless another data set is
    named.

    Args:
        task: the task or its name.
        dataset_name: a local folder (see `folder.load_from_folder`), a Hub id, or `builtin`.
        max_train_samples: keep a random subset of at most this many training rows.
        max_eval_samples: keep at most this many rows, the first, of each validation split.
        drop_fragments: drop training rows whose text is part of another row's. Most training rows
            of SST-2 are phrases, while its validation rows are sentences.
        held_out: evaluate on this many random training rows, held out after fragments are dropped,
            in place of the validation split.
        seed: seed of the random subset.

    Raises:
        FileNotFoundError: the folder, the data set, or the task in the folder does not exist.
        NotADirectoryError: `dataset_name` is a file.
        ConnectionError: the Hub cannot be reached and the data are not in the cache.
        ValueError: the task is unknown, a size is not positive, or the data do not fit the task.
    """
    task = get_glue_task(task)
    check_size("max_train_samples", max_train_samples)
    check_size("max_eval_samples", max_eval_samples)
    check_size("held_out", held_out)
    splits = _checked_splits(_load(task, dataset_name), task, dataset_name)
    train = _whole_rows(splits["train"], task) if drop_fragments else splits["train"]
    if held_out is not None:
        train, held = hold_out(train, held_out)
        splits |= dict.fromkeys(task.validation_splits, held)
    evaluation = {n: first_rows(splits[n], max_eval_samples) for n in task.validation_splits}
    return datasets.DatasetDict(
        {"train": random_subset(train, max_train_samples, seed), **evaluation}
    )


def tokenize(
    dataset: Splits,
    task: str | GlueTask,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int = 128,
) -> Splits:
    """Tokenise the text columns of a task, and rename the column `label` to `labels`.

    All other columns are removed; the order of rows stays. Texts are truncated, not padded: pad
    each batch with `transformers.DataCollatorWithPadding`.

    Args:
        dataset: one split, or the dictionary of splits that `load_glue` returns.
        task: the task or its name.
        tokenizer: tokenizer of the model.
        max_length: maximum number of tokens in a row, special tokens included.

    Raises:
        ValueError: no task has this name.
    """
    task = get_glue_task(task)
    if isinstance(dataset, datasets.Dataset):
        return _tokenize_split(dataset, task, tokenizer, max_length)
    splits = {
        name: _tokenize_split(split, task, tokenizer, max_length) for name, split in dataset.items()
    }
    return datasets.DatasetDict(splits)


def label_names(dataset: datasets.Dataset | datasets.DatasetDict) -> list[str] | None:
    """Return the names of the classes in id order; None if the data do not name them."""
    split = next(iter(dataset.values())) if isinstance(dataset, datasets.DatasetDict) else dataset
    feature = split.features.get("label", split.features.get("labels"))
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def _load(task: GlueTask, dataset_name: str) -> datasets.DatasetDict:
    """Load the splits from the source that `dataset_name` names."""
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
    if folder.is_file():
        raise NotADirectoryError(
            f"{dataset_name} is a file. Give the folder that contains it, with a file for each "
            "split, such as train.csv and validation.csv."
        )
    if is_path(dataset_name):
        raise FileNotFoundError(
            f"The folder {dataset_name} does not exist. Give an existing folder, a Hub id such as "
            f"{GLUE_DATASET!r}, or {BUILTIN!r} with the task {acceptability.NAME!r}."
        )
    instead = f"the built-in task (--task_name {acceptability.NAME})"
    return load_from_hub(dataset_name, task.name, builtin=instead)


def _checked_splits(
    found: datasets.DatasetDict, task: GlueTask, dataset_name: str
) -> datasets.DatasetDict:
    """Return the splits of the task, checked; scores become float32, as a regression needs."""
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


def _whole_rows(split: datasets.Dataset, task: GlueTask) -> datasets.Dataset:
    texts = zip(*(split[column] for column in task.sentences), strict=True)
    # The separator is a word of its own, so a pair can only be part of another pair.
    return split.select(whole_texts([" \0 ".join(row) for row in texts]))


def _tokenize_split(
    split: datasets.Dataset, task: GlueTask, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> datasets.Dataset:
    def encode(batch):
        texts = [batch[column] for column in task.sentences]
        return tokenizer(*texts, truncation=True, max_length=max_length)

    removed = [name for name in split.column_names if name != "label"]
    encoded = split.map(encode, batched=True, remove_columns=removed, desc="Tokenising")
    return encoded.rename_column("label", "labels")
