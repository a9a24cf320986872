"""Loads the splits of any data set: from the Hub, from a local folder or from local files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from datasets.exceptions import DatasetsError

from hf_td.tasks.data.files import (
    READERS,
    check_encoding,
    check_fields,
    kind_of,
    read_file,
    reader_of,
    reason,
)
from hf_td.tasks.data.hub import is_path, load_from_hub
from hf_td.tasks.data.subsets import check_size, divide
from hf_td.tasks.experiment.arguments import argument

logger = logging.getLogger(__name__)

TRAIN, VALIDATION, TEST = "train", "validation", "test"


@dataclass(kw_only=True)
class DatasetArguments:
    """The data to fine-tune on."""

    dataset_name: str | None = argument(
        None,
        "local folder or file, Hub id, or data that need no download: self for language models, "
        "digits for images",
    )
    dataset_config_name: str | None = argument(None, "configuration of the data set")
    train_file: str | None = argument(
        None, f"in place of --dataset_name, a file to train on: {', '.join(READERS)}"
    )
    validation_file: str | None = argument(None, "with --train_file, a file to measure on")
    train_split: str = argument(TRAIN, "split to train on, or a part of one: train[:90%%]")
    validation_split: str | None = argument(
        None,
        "split to measure on, or a part: train[90%%:]. By default validation, else test, else a "
        "part that is held out of the training split",
    )
    validation_split_percentage: int = argument(
        10, "size of the part that is held out where there is no split to measure on, in percent"
    )
    max_train_samples: int | None = argument(None, "train on a fixed random subset of this size")
    max_eval_samples: int | None = argument(None, "evaluate on the first rows, this many")


class Loaded(NamedTuple):
    """Loaded data.

    Attributes:
        splits: `train` and `validation`, and `test` if a file was given for it.
        measured: the split that `validation` is, in words.
    """

    splits: datasets.DatasetDict
    measured: str


def load_splits(
    arguments: DatasetArguments,
    builtin: str,
    *,
    label: str | None = None,
    test_file: str | None = None,
    check: Callable[[datasets.DatasetDict], None] | None = None,
) -> Loaded:
    """Load a split to train on and one to measure on.

    Without a split to measure on, a part of the training split is held out: random rows, with all
    labels in the same shares where possible; without a label, the last rows.

    Args:
        arguments: name the data set and its splits.
        builtin: alternative that error messages suggest when there is no network.
        label: column with the labels.
        test_file: file with rows to measure on as well.
        check: called with the splits as they were read, before rows are held out: the numbers of
            rows in its messages are those of the files.

    Raises:
        ValueError: a split does not exist or is empty, the data cannot be read, or `check` refuses.
        OSError: the data do not exist, or the Hub cannot be reached.
    """
    _check_source(arguments)
    if arguments.train_file is None:
        splits = _from_dataset(arguments, builtin)
        splits |= {} if test_file is None else {TEST: read_file(_path(test_file))}
    else:
        splits = _from_files(arguments, test_file)
    _check_rows(splits, source_of(arguments))
    if check is not None:
        check(splits)
    if VALIDATION in splits:
        return Loaded(splits, arguments.validation_split or VALIDATION)
    if TEST in splits:
        logger.warning("warning: there is no validation split. The test split is measured.")
        return Loaded(datasets.DatasetDict({TRAIN: splits[TRAIN], VALIDATION: splits[TEST]}), TEST)
    return _held_out(splits[TRAIN], arguments.validation_split_percentage, label)


def load_rows(name: str, *, builtin: str, config: str | None = None) -> datasets.Dataset:
    """Load the training split of a local folder or file, or of a data set on the Hub.

    Args:
        name: of the data.
        builtin: alternative that error messages suggest when there is no network.
        config: configuration of the data set.

    Raises:
        ValueError, OSError: as for `load_splits`.
    """
    arguments = DatasetArguments(dataset_name=name, dataset_config_name=config)
    splits = _load(arguments, builtin, {TRAIN: TRAIN})
    _check_rows(splits, name)
    return splits[TRAIN]


def own_splits(arguments: DatasetArguments) -> dict[str, str]:
    """Return the splits to train and to measure on of data that have all of them."""
    return {TRAIN: arguments.train_split, VALIDATION: arguments.validation_split or VALIDATION}


def source_of(arguments: DatasetArguments) -> str:
    """Return the Hub id, the folder or the file of the data."""
    return str(arguments.dataset_name or arguments.train_file)


def check_samples(arguments: DatasetArguments) -> None:
    """Raise ValueError if a number of samples is not positive."""
    for name in ("max_train_samples", "max_eval_samples"):
        check_size(name, getattr(arguments, name))


def _check_source(arguments: DatasetArguments) -> None:
    if (arguments.dataset_name is None) == (arguments.train_file is None):
        raise ValueError("give either --dataset_name or --train_file.")
    if arguments.validation_file is not None and arguments.train_file is None:
        raise ValueError(
            "--validation_file needs --train_file. A split of a data set is --validation_split."
        )
    if not 0 < arguments.validation_split_percentage < 100:
        raise ValueError(
            "--validation_split_percentage is from 1 to 99, got "
            f"{arguments.validation_split_percentage}."
        )


def _check_rows(splits: datasets.DatasetDict, name: str) -> None:
    for split, rows in splits.items():
        if not len(rows):
            raise ValueError(f"{name}: the {split} split has no rows.")


def _from_files(arguments: DatasetArguments, test_file: str | None) -> datasets.DatasetDict:
    files = {TRAIN: arguments.train_file, VALIDATION: arguments.validation_file, TEST: test_file}
    return datasets.DatasetDict(
        {split: read_file(_path(name)) for split, name in files.items() if name is not None}
    )


def _from_dataset(arguments: DatasetArguments, builtin: str) -> datasets.DatasetDict:
    """Load the splits that the arguments name; by default the test split if it is the only other.

    Only the splits that are needed are returned: `train`, and `validation` or `test`, or neither.
    """
    asked = arguments.validation_split
    if asked is not None:
        return _load(arguments, builtin, {TRAIN: arguments.train_split, VALIDATION: asked})
    found = _load(arguments, builtin, None)
    other = next((split for split in (VALIDATION, TEST) if split in found), None)
    if arguments.train_split in found:
        splits = {TRAIN: found[arguments.train_split]}
    else:
        splits = _load(arguments, builtin, {TRAIN: arguments.train_split})
    return datasets.DatasetDict({**splits, **({} if other is None else {other: found[other]})})


def _load(arguments: DatasetArguments, builtin: str, split: dict[str, str] | None) -> Any:
    name = source_of(arguments)
    if _path(name).is_file() and split is None:
        return datasets.DatasetDict({TRAIN: read_file(_path(name))})
    try:
        found = _load_from(name, arguments.dataset_config_name, builtin, split)
        for rows in found.values():
            check_fields(rows)
        return found
    except (DatasetsError, ValueError) as error:
        if isinstance(error, OSError):
            raise  # the data do not exist
        wanted = "" if split in (None, {TRAIN: TRAIN}) else f" as {_shown(split)}"
        hint = " A split can be part of another, such as train[:90%] and train[90%:]."
        raise ValueError(
            f"{name} cannot be read{wanted}: {reason(error)}{hint if 'split' in str(error) else ''}"
        ) from error


def _shown(split: dict[str, str]) -> str:
    return " and ".join(f"--{name}_split {part}" for name, part in split.items())


def _load_from(name: str, config: str | None, builtin: str, split: Any) -> Any:
    path = _path(name)
    if path.is_file():
        reader, options = reader_of(path)
        return datasets.load_dataset(reader, data_files=str(path), split=split, **options)
    if path.is_dir():
        return _load_folder(path, config, split)
    if kind_of(path) in READERS:
        raise FileNotFoundError(f"the file {name} does not exist. Give an existing file.")
    if is_path(name):
        raise FileNotFoundError(
            f"the folder {name} does not exist. Give an existing folder or file, an id on the "
            f"Hub, or {builtin}."
        )
    return load_from_hub(name, config, builtin=builtin, split=split)


def _load_folder(folder: Path, config: str | None, split: Any) -> Any:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    kinds = {kind_of(path) for path in files if not path.name.startswith(".")}
    tables = [path for path in files if kind_of(path) in READERS]
    if not kinds - {".md"}:
        raise FileNotFoundError(
            f"the folder {folder} has no data files. Give a folder with files of the kinds "
            f"{', '.join(READERS)}, such as train.csv and validation.csv, or with images."
        )
    if config is None and len(kinds) == 1 and tables:  # its options are known
        for path in tables:
            check_encoding(path)
        reader, options = reader_of(tables[0])
        return datasets.load_dataset(reader, data_dir=str(folder), split=split, **options)
    return datasets.load_dataset(str(folder), config, split=split)


def _held_out(rows: datasets.Dataset, percentage: int, label: str | None) -> Loaded:
    known = label if label in rows.column_names else None
    train, held, how = divide(rows, percentage, known)
    logger.warning(
        "warning: there is no validation split. %d %% of the training rows are held out to measure "
        "on (%s): %d of %d.",
        percentage,
        how,
        len(held),
        len(rows),
    )
    splits = datasets.DatasetDict({TRAIN: train, VALIDATION: held})
    return Loaded(splits, f"held-out {percentage} % of the training")


def _path(name: str) -> Path:
    return Path(name).expanduser()


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
                f"{', '.join(map(_visible, rows.column_names))}. Name the column with {option}."
            )


def _visible(name: str) -> str:
    """Return a name, in quotes where spaces around it would not be seen."""
    return name if name and name == name.strip() else repr(name)


def check_text(splits: datasets.DatasetDict, columns: Sequence[str], option: str) -> None:
    """Raise ValueError if an existing column is not text; arguments as in `check_columns`."""
    for name, split in splits.items():
        for column in columns:
            if not is_text(split.features[column]):
                raise ValueError(
                    f"the column {column} of the {name} split must hold text. It holds "
                    f"{split.features[column]}. Name another with {option}."
                )


def is_text(feature: Any) -> bool:
    """Return True for a column of strings."""
    return getattr(feature, "dtype", None) in ("string", "large_string")


def shown_name(dataset_name: str) -> str:
    """Return the Hub id, or the last part of a local path: its location is not published."""
    path = Path(dataset_name).expanduser()
    return path.resolve().name if path.exists() else dataset_name
