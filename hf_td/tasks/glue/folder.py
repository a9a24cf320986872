"""Loads a GLUE task from a local folder, with or without a data set card."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import datasets
from datasets.exceptions import DatasetsError
from huggingface_hub import metadata_load

# Without keep_default_na the sentence "None" would be a missing value.
_READERS = {
    ".csv": functools.partial(datasets.Dataset.from_csv, keep_default_na=False),
    ".json": datasets.Dataset.from_json,
    ".jsonl": datasets.Dataset.from_json,
    ".parquet": datasets.Dataset.from_parquet,
}
# The Hub's suffix for a part of a split, as in train-00000-of-00002.parquet.
_PART = re.compile(r"-(\d{5})-of-(\d{5})(-\w+)?$")


def load_from_folder(
    folder: Path, config_name: str, splits: tuple[str, ...]
) -> datasets.DatasetDict:
    """Load `splits` of one task from a folder.

    Takes the first of these that exists:

    1. a configuration called `config_name` in the card (README.md);
    2. split files in the sub-folder `config_name`;
    3. split files in the folder itself, if its card has no configurations.

    A split file is named after its split, as `train.csv`; .json, .jsonl and .parquet are read too.
    A split may lie in parts, named as on the Hub: `train-00000-of-00002.parquet`.

    Args:
        folder: an existing folder.
        config_name: name of the task.
        splits: names of the splits to read.

    Raises:
        FileNotFoundError: the folder has no data for this task; the message lists its tasks.
        ValueError: a split is missing, has two files, lacks a part, or cannot be read.
    """
    configs = _config_names(folder)
    if config_name in configs:
        return datasets.load_dataset(str(folder), config_name)
    for place in (folder / config_name, *([] if configs else [folder])):
        if _split_files(place):
            return datasets.DatasetDict({split: _load_split(place, split) for split in splits})
    raise _no_task_error(folder, config_name, configs)


def _config_names(folder: Path) -> list[str]:
    card = folder / "README.md"
    metadata = metadata_load(card) if card.is_file() else None
    return [config["config_name"] for config in (metadata or {}).get("configs", [])]


def _split_files(folder: Path) -> list[Path]:
    """Return the data files directly in `folder`, sorted; [] if it does not exist."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in _READERS)


def _load_split(folder: Path, split: str) -> datasets.Dataset:
    files = [path for path in _split_files(folder) if _PART.sub("", path.stem) == split]
    if not _are_whole(files):
        found = ", ".join(path.name for path in files or _split_files(folder))
        raise ValueError(
            f"{folder} needs one file for the split {split!r} ({split}.csv, .json, .jsonl or "
            f".parquet), or all its parts ({split}-00000-of-00002.parquet and so on). It has "
            f"{len(files)}. Found: {found}."
        )
    return _read(files)


def _are_whole(files: list[Path]) -> bool:
    """Return True if sorted files are one complete file, or all parts in one format."""
    parts = [found for path in files if (found := _PART.search(path.stem))]
    if not parts:
        return len(files) == 1
    numbers = [int(part[1]) for part in parts]
    return len({path.suffix for path in files}) == 1 and (
        len(parts) == len(files) and numbers == list(range(int(parts[0][2])))
    )


def _read(files: list[Path]) -> datasets.Dataset:
    kind = files[0].suffix
    try:
        return _READERS[kind]([str(file) for file in files])
    except (DatasetsError, ValueError) as error:
        raise ValueError(
            f"{', '.join(map(str, files))} cannot be read: it has no rows, or it is not valid "
            f"{kind[1:]} ({error})."
        ) from error


def _no_task_error(folder: Path, config_name: str, configs: list[str]) -> FileNotFoundError:
    folders = {path.name for path in folder.iterdir() if _split_files(path)}
    found = ", ".join(sorted(folders | set(configs))) or "none"
    return FileNotFoundError(
        f"The folder {folder} has no task {config_name!r}. It needs a configuration of that name "
        f"in its README.md, a sub-folder {config_name}/, or files such as train.csv and "
        f"validation.csv. Tasks found: {found}."
    )
