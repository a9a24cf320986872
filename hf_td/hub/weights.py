"""Which files of a folder hold the weights of a model, and whether they are whole."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hf_td.hub.archive import read_archive_header

# No loader takes this for weights: `from_pretrained` says that it finds none.
ARCHIVE_NAME = "model.hftd"
# The graph, in which small models have their weights, and the file beside it of larger ones.
GRAPH = "model.onnx"
GRAPH_DATA = "model.onnx.data"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def weight_files(folder: str | Path) -> list[Path]:
    """The files from which a folder is loaded; empty where it has none.

    As transformers does, a single safetensors file is preferred to an index of several.
    """
    folder = Path(folder)
    if (folder / ARCHIVE_NAME).is_file():
        return [folder / ARCHIVE_NAME]
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if (folder / GRAPH).is_file():
        return [path for name in (GRAPH, GRAPH_DATA) if (path := folder / name).is_file()]
    if not (folder / INDEX).is_file():
        return []
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    return [folder / name for name in sorted(set(index["weight_map"].values()))]


def check_whole(file: Path) -> None:
    """Raise ValueError unless a file of weights is there, in full."""
    if not file.is_file():
        raise ValueError(f"{file} is missing")
    if file.name == ARCHIVE_NAME:
        read_archive_header(file)
        return
    if file.name in (GRAPH, GRAPH_DATA):
        if not file.stat().st_size:
            raise ValueError(f"{file} is empty")
        return
    try:
        with safe_open(file, framework="np"):
            return
    except SafetensorError as error:
        raise ValueError(f"{file} is not a whole safetensors file: {error}") from error


def check_finished(folder: Path) -> None:
    """Raise ValueError unless a folder holds a config and whole weights, and is not temporary."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; export_model writes one")
    if folder.name.startswith("."):
        raise ValueError(f"{folder} is a temporary folder of an export that did not finish")
    _check_config(folder / "config.json")
    files = weight_files(folder)
    if not files:
        raise ValueError(f"{folder} is no finished export: it has no {SINGLE} and no {INDEX}")
    for file in files:
        check_whole(file)


def _check_config(path: Path) -> None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path.parent} is no finished export: config.json cannot be read ({error})"
        ) from error
    if "model_type" not in config:
        raise ValueError(f"{path} is no config of a model: it has no model_type")
