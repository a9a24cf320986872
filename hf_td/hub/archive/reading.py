"""Loads an archive: anybody may have written it, so it is checked before it is believed."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_td.hub.archive.codec import Coded, decode
from hf_td.hub.archive.description import DTYPES, ArchiveDescription, ArchiveEntry, digest_of
from hf_td.hub.archive.errors import expect, naming
from hf_td.tensor_files import opened

LIMIT = 64 << 30  # bytes


def read_description(path: str | PathLike[str], *, limit: int | None = None) -> ArchiveDescription:
    """Read what an archive holds, without its tensors.

    Args:
        path: the archive.
        limit: most bytes of its tensors; None for any number.

    Raises:
        ValueError: the file is no archive, is malformed, or exceeds `limit`.
    """
    with _opened(path) as (_, description):
        _check_size(description, limit)
        return description


def load_archive(
    path: str | PathLike[str], device: torch.device | str = "cpu", *, limit: int = LIMIT
) -> dict[str, Tensor]:
    """Load every tensor of an archive, bit for bit as it was saved.

    Tensors that were tied are one tensor again, under each of their names.

    Args:
        path: the archive.
        device: of the tensors, which are moved one by one.
        limit: refuse an archive whose tensors take more bytes than this. Zeros compress to next
            to nothing, so a small file may hold more than the memory does.

    Raises:
        ValueError: the file is no archive, is malformed or corrupt, or exceeds `limit`.
    """
    tensors: dict[str, Tensor] = {}
    with _opened(path) as (file, description):
        _check_size(description, limit)
        for entry in description.entries:
            with naming(f"tensor {entry.names[0]!r}"):
                tensor = _read_tensor(file, entry).to(device)
            tensors.update(dict.fromkeys(entry.names, tensor))
    return tensors


@contextmanager
def _opened(path: str | PathLike[str]) -> Iterator[tuple[Any, ArchiveDescription]]:
    """Open an archive whose description and streams fit each other; name it in every ValueError.

    Safetensors checks the rest of the header: every byte of the file belongs to one stream.
    """
    with naming(str(path)):
        with opened(Path(path), "np") as file:
            description = ArchiveDescription.from_metadata(file.metadata())
            expected = sorted(name for entry in description.entries for name in entry.streams)
            found = sorted(file.keys())
            missing = sorted(set(expected) - set(found))
            needed = reprlib.repr(missing or expected)
            expect(found == expected, "the names of the streams", needed, found)
            for name in found:
                stream = file.get_slice(name)
                is_bytes = stream.get_dtype() == "U8" and len(stream.get_shape()) == 1
                kind = f"{stream.get_dtype()} of shape {stream.get_shape()}"
                expect(is_bytes, f"stream {name!r}", "U8 of one dimension", kind)
            yield file, description


def _check_size(description: ArchiveDescription, limit: int | None) -> None:
    size = description.dense_bytes
    fits = limit is None or size <= limit
    expect(fits, "the size of all tensors", f"at most limit={limit} bytes", size)


def _read_tensor(file: Any, entry: ArchiveEntry) -> Tensor:
    streams = [memoryview(file.get_tensor(name)) for name in entry.streams]
    found = digest_of(streams)
    expect(found == entry.digest, "the digest", entry.digest, found)
    coded = Coded(encoding=entry.encoding, values=entry.values, streams=streams)
    words = decode(coded, entry.size, entry.itemsize)
    return torch.from_numpy(words.view("u1")).view(DTYPES[entry.dtype]).reshape(entry.shape)
