"""The files of a checkpoint that hold its weights."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PATTERNS = (SINGLE, "model-*-of-*.safetensors", INDEX)


def find_weights(folder: Path) -> list[Path]:
    """Return the files from which transformers loads a folder; empty where it has none.

    As in transformers, a single file is preferred to an index of several.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        return []
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    return [folder / name for name in sorted(set(index["weight_map"].values()))]


def check_readable(file: Path) -> None:
    """Raise ValueError unless a file is a whole safetensors file."""
    try:
        with safe_open(file, framework="np"):
            return
    except SafetensorError as error:
        raise ValueError(f"{file} is not a whole safetensors file: {error}") from error
