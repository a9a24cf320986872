"""Tells whether the local data of an experiment are those of an earlier call."""

from __future__ import annotations

import hashlib
from pathlib import Path

from hf_td.tasks.data.files import READERS, kind_of
from hf_td.tasks.experiment.arguments import Arguments

_DATA = ("dataset_name", "train_file", "validation_file", "test_file", "transfer_set")


def fingerprints(arguments: Arguments) -> dict[str, str]:
    """Return a hash of the content of each local file or folder that the arguments read.

    Of files that are no tables, such as images, the names and sizes count.
    """
    named = {name: getattr(arguments.data, name, None) for name in _DATA}
    paths = {name: Path(value).expanduser() for name, value in named.items() if value}
    return {name: _fingerprint(path) for name, path in paths.items() if path.exists()}


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
