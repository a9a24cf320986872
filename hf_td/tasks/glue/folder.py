"""Loads a task from a local folder, with or without a data-set card."""

import functools
import re
from pathlib import Path

import datasets
from datasets.exceptions import DatasetsError
from huggingface_hub import metadata_load

# keep_default_na: or the sentence "None" would be missing
_READERS = {
    ".csv": functools.partial(datasets.Dataset.from_csv, keep_default_na=False),
    ".json": datasets.Dataset.from_json,
    ".jsonl": datasets.Dataset.from_json,
    ".parquet": datasets.Dataset.from_parquet,
}
# How the Hub names a part of a split, after the split: train-00000-of-00002.parquet.
_PART = re.compile(r"-(\d{5})-of-(\d{5})(-\w+)?$")


def load_from_folder(
    folder: Path, config_name: str, splits: tuple[str, ...]
) -> datasets.DatasetDict:
    """Load `splits` of one task from a folder.

    In this order: a configuration called `config_name` in the card (README.md); files called
    after their split (`train.csv`, `validation.parquet`; also .json and .jsonl, and in parts as the
    Hub has them: `train-00000-of-00002.parquet`) in the sub-folder called `config_name`; such files
    in the folder itself, if its card has no configurations.

    Args:
        folder: An existing folder.
        config_name: The task's name.
        splits: The names of the splits to read.

    Raises:
        FileNotFoundError: The folder has nothing for this task; the message lists what it has.
        ValueError: A split is missing, has two files, lacks a part, or cannot be read.
    """
    configs = _config_names(folder)
    if config_name in configs:
        return datasets.load_dataset(str(folder), config_name)
    for place in (folder / config_name, *([] if configs else [folder])):
        if _split_files(place):
            return _load_files(place, splits)
    raise _no_task_error(folder, config_name, configs)


def _config_names(folder: Path) -> list[str]:
    card = folder / "README.md"
    metadata = metadata_load(card) if card.is_file() else None
    return [config["config_name"] for config in (metadata or {}).get("configs", [])]


def _split_files(folder: Path) -> list[Path]:
    """The data files directly in `folder`, sorted; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in _READERS)


def _load_files(folder: Path, splits: tuple[str, ...]) -> datasets.DatasetDict:
    return datasets.DatasetDict({split: _load_split(folder, split) for split in splits})


def _load_split(folder: Path, split: str) -> datasets.Dataset:
    files = [path for path in _split_files(folder) if _PART.sub("", path.stem) == split]
    if not _are_whole(files):
        found = ", ".join(path.name for path in files or _split_files(folder))
        raise ValueError(
            f"{folder} needs exactly one file for the split {split!r} ({split}.csv, .json, .jsonl "
            f"or .parquet), or all its parts ({split}-00000-of-00002.parquet and so on); it has "
            f"{len(files)}. Found: {found}."
        )
    return _read(files)


def _are_whole(files: list[Path]) -> bool:
    """Whether sorted files are one that is whole, or all parts of one kind."""
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
            f"{', '.join(map(str, files))} cannot be read: it has no rows or is not valid "
            f"{kind[1:]} ({error})."
        ) from error


def _no_task_error(folder: Path, config_name: str, configs: list[str]) -> FileNotFoundError:
    folders = {path.name for path in folder.iterdir() if _split_files(path)}
    found = ", ".join(sorted(folders | set(configs))) or "none"
    return FileNotFoundError(
        f"The folder {folder} has no task {config_name!r}: neither a configuration of that name in "
        f"its README.md, nor a sub-folder {config_name}/ or files of its own such as train.csv and "
        f"validation.csv. Tasks found: {found}."
    )
