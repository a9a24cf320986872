"""Tells whether the local data and models of an experiment are those of an earlier call."""

from __future__ import annotations

import hashlib
from pathlib import Path

from hf_td.tasks.data.files import READERS, kind_of
from hf_td.tasks.experiment.arguments import START, Arguments

_DATA = ("dataset_name", "train_file", "validation_file", "test_file", "transfer_set")
# Of a folder with a model, what is loaded. Cards, results and checkpoints beside it do not count.
_MODEL_FILES = ("config.json", "*.safetensors", "pytorch_model*.bin", "tokenizer*", "vocab*")


def fingerprints(arguments: Arguments) -> dict[str, str]:
    """Return a hash of the content of each local file or folder that the arguments read.

    Of files of data that are no tables, such as images, the names and sizes count.
    """
    named = {name: getattr(arguments.data, name, None) for name in _DATA}
    paths = {name: Path(value).expanduser() for name, value in named.items() if value}
    found = {name: _fingerprint(path) for name, path in paths.items() if path.exists()}
    models = {
        "model_name_or_path": arguments.model.model_name_or_path,
        "teacher": arguments.training.teacher,
    }
    folders = {name: Path(value) for name, value in models.items() if value not in (None, START)}
    return found | {name: _of_model(path) for name, path in folders.items() if path.is_dir()}


def _of_model(folder: Path) -> str:
    files = {file for pattern in _MODEL_FILES for file in folder.glob(pattern) if file.is_file()}
    parts = [(file.name, _hash(file)) for file in sorted(files)]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _fingerprint(path: Path) -> str:
    if path.is_file():
        return _hash(path)
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    parts = [(str(f.relative_to(path)), _hash(f) if _is_table(f) else _size(f)) for f in files]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _is_table(path: Path) -> bool:
    return kind_of(path) in READERS


def _hash(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _size(path: Path) -> str:
    return str(path.stat().st_size)
