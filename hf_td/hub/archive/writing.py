"""Save an archive, tensor by tensor, whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor, strided, uint8

from hf_td.hub.archive.codec import Words, encode, word_type
from hf_td.hub.archive.errors import expect, naming
from hf_td.hub.archive.header import (
    DTYPES,
    PREAMBLE,
    ArchiveEntry,
    ArchiveHeader,
    check_metadata,
    check_name,
    digest_of,
    write_header,
)

SUFFIX = ".hftd"


@dataclass(frozen=True, kw_only=True)
class ArchiveReport:
    """What an archive saved.

    Attributes:
        path: where it is.
        tensors: number of names.
        dense_bytes: bytes of the tensors, tied ones counted once.
        archive_bytes: bytes of the file.
    """

    path: Path
    tensors: int
    dense_bytes: int
    archive_bytes: int

    @property
    def ratio(self) -> float:
        """The archive's bytes as a share of the dense bytes; nan where there are none."""
        return self.archive_bytes / self.dense_bytes if self.dense_bytes else float("nan")


def save_archive(
    tensors: Mapping[str, Tensor],
    path: str | PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
) -> ArchiveReport:
    """Write tensors to a compressed file from which `load_archive` restores every bit.

    Best where pruned weights are zero; only the bit pattern +0.0 counts as pruned. Tensors that
    are the same view of the same storage are written once. The file appears under its name only
    when it is complete: until then, and whatever fails, a file of that name stays as it was.

    Args:
        tensors: name to tensor, of any shape and of a dtype that safetensors has. Names may hold
            no slashes.
        path: ends in ".hftd".
        metadata: whatever should be kept beside the tensors.

    Raises:
        ValueError: the path, a name, a tensor or the metadata is not as above.
    """
    path, metadata = Path(path), {} if metadata is None else metadata
    expect(path.suffix == SUFFIX, "the path of an archive", f"*{SUFFIX}", str(path))
    check_metadata(metadata)
    for name in tensors:
        check_name(name)
    with _replacing(path) as file:
        file.write(bytes(PREAMBLE.size))
        header = ArchiveHeader(metadata=metadata, entries=_write_tensors(file, tensors))
        write_header(file, header)
    return ArchiveReport(
        path=path,
        tensors=len(tensors),
        dense_bytes=header.dense_bytes,
        archive_bytes=path.stat().st_size,
    )


def _write_tensors(file: BinaryIO, tensors: Mapping[str, Tensor]) -> tuple[ArchiveEntry, ...]:
    entries: dict[Hashable, ArchiveEntry] = {}
    alive = []  # a tensor that is gone may leave its address to the next one, which is not tied
    for name, tensor in tensors.items():
        with naming(f"tensor {name!r}"):
            _check_tensor(tensor)
        key = _identity(tensor) if tensor.numel() else name
        if key in entries:
            entries[key] = replace(entries[key], names=(*entries[key].names, name))
        else:
            alive.append(tensor)
            entries[key] = _write_tensor(file, name, tensor)
    return tuple(entries.values())


def _check_tensor(tensor: Any) -> None:
    expect(isinstance(tensor, Tensor), "it", "a tensor", type(tensor))
    known = f"one of {', '.join(DTYPES)}"
    expect(tensor.dtype in DTYPES.values(), "its dtype", known, tensor.dtype)
    expect(tensor.layout == strided, "its layout", str(strided), tensor.layout)
    expect(not tensor.is_meta, "its device", "one with data", tensor.device)


def _identity(tensor: Tensor) -> Hashable:
    """Equal for tensors that are the same view of the same memory."""
    place = (tensor.device, tensor.data_ptr(), tensor.dtype)
    return (*place, tensor.shape, tensor.stride(), tensor.is_conj(), tensor.is_neg())


def _write_tensor(file: BinaryIO, name: str, tensor: Tensor) -> ArchiveEntry:
    coded = encode(_words_of(tensor))
    digest = digest_of(b"")
    for stream in coded.streams:
        digest.update(stream)
        file.write(stream)
    return ArchiveEntry(
        names=(name,),
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=tuple(tensor.shape),
        encoding=coded.encoding,
        values=coded.values,
        streams=tuple(len(stream) for stream in coded.streams),
        digest=digest.hexdigest(),
    )


def _words_of(tensor: Tensor) -> Words:
    """The bit patterns of the elements, shape `(numel,)`; a view where the tensor allows it."""
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    return plain.reshape(-1).view(uint8).numpy().view(word_type(tensor.itemsize))


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` once it is complete and on disk."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with draft.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut; only POSIX can open a folder for that."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
