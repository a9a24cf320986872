"""The files of a checkpoint that hold its weights."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from hf_td.files import read_json_object

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PATTERNS = (SINGLE, "model-*-of-*.safetensors", INDEX)


def find_weights(folder: Path) -> list[Path]:
    """Return the files from which transformers loads a folder; empty where it has none.

    As in transformers, a single file is preferred to an index of several.

    Raises:
        ValueError: the index is malformed, or names a file outside of the folder.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        return []
    return [folder / name for name in sorted(_files_in(folder / INDEX))]


def _files_in(index: Path) -> set[str]:
    """Return the names of the files in an index."""
    names = read_json_object(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
        raise ValueError(f"{index} should have a weight_map from tensors to names of files")
    outside = next((n for n in names.values() if not _is_plain(n)), None)
    if outside is not None:
        raise ValueError(f"{index} should name files in its own folder, got {outside!r}")
    return set(names.values())


def _is_plain(name: str) -> bool:
    """Return True for a name of a file that leads out of no folder."""
    return (
        Path(name).name == name
        and name not in ("", "..")
        and name.isprintable()
        and "\\" not in name
    )


def check_readable(file: Path) -> None:
    """Raise ValueError unless a file is a whole safetensors file."""
    try:
        with safe_open(file, framework="np"):
            return
    except SafetensorError as error:
        raise ValueError(f"{file} is not a whole safetensors file: {error}") from error
