"""Loads the splits of any data set: from the Hub, from a local folder or from a local file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetsError

from hf_td.tasks.data.hub import is_path, load_from_hub
from hf_td.tasks.data.subsets import check_size
from hf_td.tasks.experiment.arguments import argument

# The reader of a file and its options: text keeps its line breaks, and the word "None" stays text.
_READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".txt": ("text", {"keep_linebreaks": True}),
    ".csv": ("csv", {"keep_default_na": False}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".parquet": ("parquet", {}),
}


@dataclass(kw_only=True)
class DatasetArguments:
    """The data to fine-tune on."""

    dataset_name: str = field(
        metadata={
            "help": "local folder or file, Hub id, or data that need no download: self for "
            "language models, digits for images"
        }
    )
    dataset_config_name: str | None = argument(None, "configuration of the data set")
    train_split: str = argument("train", "split to train on, or a part of one: train[:90%%]")
    validation_split: str = argument("validation", "split to measure on, or a part: train[90%%:]")
    max_train_samples: int | None = argument(None, "train on a fixed random subset of this size")
    max_eval_samples: int | None = argument(None, "evaluate on the first rows, this many")


def load_splits(arguments: DatasetArguments, builtin: str) -> datasets.DatasetDict:
    """Load the training and the validation split under the names `train` and `validation`.

    Args:
        arguments: name the data set and its splits.
        builtin: alternative that error messages suggest when there is no network.

    Raises:
        ValueError: a split does not exist or is empty, or the data cannot be read.
        OSError: the data do not exist, or the Hub cannot be reached.
    """
    name = arguments.dataset_name
    try:
        splits = _load(arguments, builtin)
    except (DatasetsError, ValueError) as error:
        if isinstance(error, OSError):
            raise  # the data do not exist
        raise ValueError(
            f"{name} cannot be read as --train_split {arguments.train_split} and "
            f"--validation_split {arguments.validation_split}: {error} A split can be part of "
            "another, such as train[:90%] and train[90%:]."
        ) from error
    for split, rows in splits.items():
        if not len(rows):
            raise ValueError(f"{name}: the {split} split has no rows.")
    return splits


def check_samples(arguments: DatasetArguments) -> None:
    """Raise ValueError if a number of samples is not positive."""
    for name in ("max_train_samples", "max_eval_samples"):
        check_size(name, getattr(arguments, name))


def _load(arguments: DatasetArguments, builtin: str) -> Any:
    name, config = arguments.dataset_name, arguments.dataset_config_name
    split: Any = {"train": arguments.train_split, "validation": arguments.validation_split}
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix not in _READERS:
            raise ValueError(f"a file of the kinds {', '.join(_READERS)} was expected.")
        reader, options = _READERS[path.suffix]
        return datasets.load_dataset(reader, data_files=str(path), split=split, **options)
    if path.is_dir() and config is None and _is_plain_text(path):
        reader, options = _READERS[".txt"]
        return datasets.load_dataset(reader, data_dir=str(path), split=split, **options)
    if path.is_dir():
        return datasets.load_dataset(str(path), config, split=split)
    if is_path(name):
        raise FileNotFoundError(
            f"the folder {name} does not exist. Give an existing folder or file, an id on the "
            f"Hub, or {builtin}."
        )
    return load_from_hub(name, config, builtin=builtin, split=split)


def _is_plain_text(folder: Path) -> bool:
    """Return True if all files of the folder, except its card, are plain text."""
    files = {path.suffix for path in folder.rglob("*") if path.is_file() and path.suffix != ".md"}
    return files == {".txt"}


def check_columns(splits: datasets.DatasetDict, columns: Sequence[str], option: str) -> None:
    """Raise ValueError if a split lacks one of the columns.

    Args:
        splits: splits to check.
        columns: required columns.
        option: option that names the columns, for the message.
    """
    for split, rows in splits.items():
        missing = [name for name in columns if name not in rows.column_names]
        if missing:
            raise ValueError(
                f"the {split} split has no column {', '.join(missing)}. It has "
                f"{', '.join(rows.column_names)}. Name the column with {option}."
            )


def check_text(splits: datasets.DatasetDict, columns: Sequence[str], option: str) -> None:
    """Raise ValueError if an existing column is not text; arguments as in `check_columns`."""
    for name, split in splits.items():
        for column in columns:
            kind = split.features[column]
            if getattr(kind, "dtype", None) not in ("string", "large_string"):
                raise ValueError(
                    f"the column {column} of the {name} split must hold text. It holds {kind}. "
                    f"Name another with {option}."
                )


def shown_name(dataset_name: str) -> str:
    """Return the Hub id, or the last part of a local path: its location is not published."""
    path = Path(dataset_name).expanduser()
    return path.resolve().name if path.exists() else dataset_name
