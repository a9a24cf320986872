"""Load an archive: data that anybody may have written, so it is checked before it is believed."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from hf_td.hub.archive.codec import Coded, decode
from hf_td.hub.archive.errors import expect, naming
from hf_td.hub.archive.header import DTYPES, ArchiveEntry, ArchiveHeader, digest_of, read_header

LIMIT = 64 << 30  # bytes


def read_archive_header(path: str | PathLike[str]) -> ArchiveHeader:
    """What an archive holds, without reading its tensors.

    Raises:
        ValueError: the file is no archive, or its header is malformed.
    """
    path = Path(path)
    with path.open("rb") as file, naming(str(path)):
        return read_header(file, _size_of(file))


def load_archive(
    path: str | PathLike[str], device: torch.device | str = "cpu", *, limit: int = LIMIT
) -> dict[str, Tensor]:
    """Load every tensor of an archive, bit for bit as it was saved.

    Tensors that were tied are one tensor again, under each of their names.

    Args:
        path: the archive.
        device: where the tensors go, one by one.
        limit: refuse an archive whose tensors take more bytes than this. Zeros compress to next
            to nothing, so a small file may hold more than the memory does.

    Raises:
        ValueError: the file is no archive, is malformed or corrupt, or exceeds `limit`.
    """
    path = Path(path)
    tensors: dict[str, Tensor] = {}
    with path.open("rb") as file, naming(str(path)):
        header = read_header(file, _size_of(file))
        size = header.dense_bytes
        expect(size <= limit, "the size of all tensors", f"at most limit={limit} bytes", size)
        for entry in header.entries:
            with naming(f"tensor {entry.names[0]!r}"):
                tensor = _read_tensor(file, entry).to(device)
            tensors.update(dict.fromkeys(entry.names, tensor))
    return tensors


def _size_of(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _read_tensor(file: BinaryIO, entry: ArchiveEntry) -> Tensor:
    stored = file.read(entry.stored_bytes)
    found = digest_of(stored).hexdigest()
    expect(found == entry.digest, "the checksum", entry.digest, found)
    coded = Coded(
        encoding=entry.encoding, values=entry.values, streams=_split(stored, entry.streams)
    )
    words = decode(coded, entry.size, entry.itemsize)
    return torch.from_numpy(words.view("u1")).view(DTYPES[entry.dtype]).reshape(entry.shape)


def _split(stored: bytes, sizes: tuple[int, ...]) -> list[memoryview]:
    """The streams, of the given sizes, that lie one after the other in `stored`."""
    rest = memoryview(stored)
    streams = []
    for size in sizes:
        streams.append(rest[:size])
        rest = rest[size:]
    return streams
