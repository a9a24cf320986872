"""Saves an archive, tensor by tensor, whole or not at all."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors.numpy import save_file
from torch import Tensor, strided, uint8

from hf_td.files import replacing
from hf_td.hub.archive.codec import Words, encode, word_type
from hf_td.hub.archive.description import (
    DTYPES,
    ArchiveDescription,
    ArchiveEntry,
    check_metadata,
    check_name,
    digest_of,
)
from hf_td.hub.archive.errors import expect, naming

# No loader takes a file of this name for weights that it could load itself.
SUFFIX = ".archive.safetensors"


@dataclass(frozen=True, kw_only=True)
class ArchiveReport:
    """A saved archive.

    Attributes:
        path: of the file.
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
    are the same view of the same storage are written once. The file is written as a whole or not
    at all.

    Args:
        tensors: name to tensor, of any shape and of a dtype that safetensors has. Names may hold
            no slashes.
        path: ends in ".archive.safetensors".
        metadata: strings to keep with the tensors.

    Raises:
        ValueError: the path, a name, a tensor or the metadata is not as above.
    """
    path, metadata = Path(path), {} if metadata is None else metadata
    fine = path.name.endswith(SUFFIX) and path.name != SUFFIX
    expect(fine, "the path of an archive", f"*{SUFFIX}", str(path))
    check_metadata(metadata)
    for name in tensors:
        check_name(name)
    # The compressed streams wait in a file: memory would not hold those of a large model.
    with replacing(path) as draft, tempfile.TemporaryFile(dir=draft.parent) as spool:
        sizes: dict[str, int] = {}
        description = ArchiveDescription(
            metadata=metadata, entries=_compress(tensors, spool, sizes)
        )
        metadata_of_file = description.to_metadata()
        ArchiveDescription.from_metadata(metadata_of_file)  # never write what cannot be read
        save_file(_streams(spool, sizes), draft, metadata_of_file)
    return ArchiveReport(
        path=path,
        tensors=len(tensors),
        dense_bytes=description.dense_bytes,
        archive_bytes=path.stat().st_size,
    )


def _compress(
    tensors: Mapping[str, Tensor], spool: BinaryIO, sizes: dict[str, int]
) -> tuple[ArchiveEntry, ...]:
    """Append the streams of all tensors to a file; add the size of each to `sizes`, in order."""
    entries: dict[Hashable, ArchiveEntry] = {}
    alive = []  # a deleted tensor may leave its address to the next one, which is not tied to it
    for name, tensor in tensors.items():
        with naming(f"tensor {name!r}"):
            _check_tensor(tensor)
        key = _identity(tensor) if tensor.numel() else name
        if key in entries:
            entries[key] = replace(entries[key], names=(*entries[key].names, name))
            continue
        alive.append(tensor)
        coded = encode(_words_of(tensor))
        entries[key] = ArchiveEntry(
            names=(name,),
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=tuple(tensor.shape),
            encoding=coded.encoding,
            values=coded.values,
            digest=digest_of(coded.streams),
        )
        for stream_name, stream in zip(entries[key].streams, coded.streams, strict=True):
            sizes[stream_name] = spool.write(stream)
    return tuple(entries.values())


def _streams(spool: BinaryIO, sizes: Mapping[str, int]) -> dict[str, np.ndarray[Any, Any]]:
    """Return the streams that lie in a file one after the other, as arrays on its pages."""
    if not sizes:
        return {}
    spool.flush()
    content = np.frombuffer(mmap.mmap(spool.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    ends = np.cumsum(list(sizes.values()))
    return dict(zip(sizes, np.split(content, ends[:-1]), strict=True))


def _check_tensor(tensor: Any) -> None:
    expect(isinstance(tensor, Tensor), "it", "a tensor", type(tensor))
    known = f"one of {', '.join(DTYPES)}"
    expect(tensor.dtype in DTYPES.values(), "its dtype", known, tensor.dtype)
    expect(tensor.layout == strided, "its layout", str(strided), tensor.layout)
    expect(not tensor.is_meta, "its device", "one with data", tensor.device)


def _identity(tensor: Tensor) -> Hashable:
    """Return a key that is equal for tensors that are the same view of the same memory."""
    place = (tensor.device, tensor.data_ptr(), tensor.dtype)
    return (*place, tensor.shape, tensor.stride(), tensor.is_conj(), tensor.is_neg())


def _words_of(tensor: Tensor) -> Words:
    """Return the bit patterns of the elements, shape `(numel,)`; a view where that is possible."""
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    return plain.reshape(-1).view(uint8).numpy().view(word_type(tensor.itemsize))
