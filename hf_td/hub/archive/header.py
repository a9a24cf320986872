"""What an archive says about itself: its preamble and its header, checked before anything is read.

Streams lie one after the other in the order of the header, so a header holds their sizes only:
offsets follow, and streams cannot overlap.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any, BinaryIO

import torch

from hf_td.hub.archive.codec import DENSE, ENCODINGS, stream_count
from hf_td.hub.archive.errors import expect, naming

MAGIC = b"HFTDARCH"
VERSION = 1
# Magic, version, offset and length of the header, BLAKE2b of the header.
PREAMBLE = struct.Struct("<8sIQQ32s")

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.bool,
        torch.uint8,
        torch.uint16,
        torch.uint32,
        torch.uint64,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float8_e4m3fn,
        torch.float8_e4m3fnuz,
        torch.float8_e5m2,
        torch.float8_e5m2fnuz,
        torch.float8_e8m0fnu,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.complex64,
    )
}

_HEADER_LIMIT = 100_000_000
_MOST_DIMS = 64
# More elements than any tensor has, and few enough for every stride to fit 64 bits.
_MOST_ELEMENTS = 1 << 48


@dataclass(frozen=True, kw_only=True)
class ArchiveEntry:
    """One stored tensor.

    Attributes:
        names: the names it has; more than one where tensors are tied.
        dtype: a key of `DTYPES`.
        shape: its dense shape.
        encoding: "dense", "bitmask" or "gaps".
        values: how many elements are written out.
        streams: sizes of the compressed streams in bytes.
        digest: BLAKE2b of the streams, 64 hexadecimal digits.
    """

    names: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...]
    encoding: str
    values: int
    streams: tuple[int, ...]
    digest: str

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return DTYPES[self.dtype].itemsize

    @property
    def dense_bytes(self) -> int:
        """Bytes of the tensor once it is loaded."""
        return self.size * self.itemsize

    @property
    def stored_bytes(self) -> int:
        """Bytes of its streams in the file."""
        return sum(self.streams)


@dataclass(frozen=True, kw_only=True)
class ArchiveHeader:
    """What an archive holds.

    Attributes:
        metadata: what the writer had to say.
        entries: the stored tensors in the order of their streams.
    """

    metadata: Mapping[str, str]
    entries: tuple[ArchiveEntry, ...]

    @property
    def dense_bytes(self) -> int:
        """Bytes of all tensors once they are loaded, tied ones counted once."""
        return sum(entry.dense_bytes for entry in self.entries)


def digest_of(data: bytes | memoryview) -> blake2b:
    """The checksum of an archive: BLAKE2b of 32 bytes."""
    return blake2b(data, digest_size=32)


def check_name(name: Any) -> None:
    """Refuse a tensor name that could be taken for a path, or that cannot be printed."""
    plain = isinstance(name, str) and name.isprintable() and bool(name.strip("."))
    fine = plain and not set(name) & set("/\\")
    expect(fine, "a tensor's name", "printable, without slashes, not only dots", name)


def check_metadata(metadata: Any) -> None:
    """Refuse metadata that is not a mapping of strings to strings."""
    fine = isinstance(metadata, Mapping) and all(
        isinstance(text, str) for item in metadata.items() for text in item
    )
    expect(fine, "metadata", "a mapping of strings to strings", metadata)


def write_header(file: BinaryIO, header: ArchiveHeader) -> None:
    """Append the header to the streams, and fill in the preamble in front of them."""
    text = json.dumps(
        {"metadata": dict(header.metadata), "tensors": [asdict(entry) for entry in header.entries]},
        separators=(",", ":"),
    ).encode()
    offset = file.tell()
    header_from_json(text, offset - PREAMBLE.size)  # never write what cannot be read
    file.write(text)
    file.seek(0)
    file.write(PREAMBLE.pack(MAGIC, VERSION, offset, len(text), digest_of(text).digest()))


def read_header(file: BinaryIO, file_size: int) -> ArchiveHeader:
    """Read and check the header; leaves the file at the first stream."""
    raw = file.read(PREAMBLE.size)
    expect(raw[: len(MAGIC)] == MAGIC[: len(raw)], "the magic", repr(MAGIC), raw[: len(MAGIC)])
    expect(len(raw) == PREAMBLE.size, "the preamble", f"{PREAMBLE.size} bytes", len(raw))
    _, version, offset, length, digest = PREAMBLE.unpack(raw)
    expect(version == VERSION, "the version", str(VERSION), version)
    expect(length <= _HEADER_LIMIT, "the header's length", f"at most {_HEADER_LIMIT}", length)
    fits = offset >= PREAMBLE.size and offset + length == file_size
    expect(fits, "the header's end", f"the end of the file, {file_size}", offset + length)
    file.seek(offset)
    text = file.read(length)
    found = digest_of(text).digest()
    expect(found == digest, "the header's checksum", digest.hex(), found.hex())
    file.seek(PREAMBLE.size)
    return header_from_json(text, offset - PREAMBLE.size)


def header_from_json(text: bytes, stream_bytes: int) -> ArchiveHeader:
    """The header of its JSON, for a file with `stream_bytes` bytes of streams.

    Raises:
        ValueError: anything is not of the form that `write_header` writes.
    """
    values = _parse(text)
    _expect_keys(values, {"metadata", "tensors"}, "the header")
    check_metadata(values["metadata"])
    expect(isinstance(values["tensors"], list), "tensors", "a list", values["tensors"])
    entries = tuple(_entry(index, entry) for index, entry in enumerate(values["tensors"]))
    _check_unique([name for entry in entries for name in entry.names], "a tensor's name")
    stored = sum(entry.stored_bytes for entry in entries)
    expect(stored == stream_bytes, "the sum of all stream sizes", str(stream_bytes), stored)
    return ArchiveHeader(metadata=values["metadata"], entries=entries)


def _parse(text: bytes) -> Any:
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the header should be JSON: {error}") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _check_unique([key for key, _ in pairs], "a key")
    return dict(pairs)


def _check_unique(names: list[str], what: str) -> None:
    seen = set()
    for name in names:
        expect(name not in seen, what, "there once", name)
        seen.add(name)


def _expect_keys(values: Any, keys: set[str], field: str) -> None:
    expect(isinstance(values, dict), field, "a mapping", values)
    expect(set(values) == keys, field, f"the keys {sorted(keys)}", sorted(values))


def _entry(index: int, values: Any) -> ArchiveEntry:
    where = f"tensors[{index}]"
    _expect_keys(values, set(ArchiveEntry.__dataclass_fields__), where)
    with naming(where):
        _check_names(values["names"])
        _check_choice("dtype", values["dtype"], DTYPES)
        _check_choice("encoding", values["encoding"], ENCODINGS)
        _check_shape(values["shape"])
        expect(_is_digest(values["digest"]), "digest", "64 hexadecimal digits", values["digest"])
        expect(isinstance(values["streams"], list), "streams", "a list", values["streams"])
        lists = {field: tuple(values[field]) for field in ("names", "shape", "streams")}
        entry = ArchiveEntry(**{**values, **lists})
        _check_counts(entry)
    return entry


def _check_names(names: Any) -> None:
    expect(isinstance(names, list) and len(names) > 0, "names", "a list of at least one", names)
    for name in names:
        check_name(name)


def _check_choice(field: str, value: Any, known: Any) -> None:
    fine = isinstance(value, str) and value in known
    expect(fine, field, f"one of {', '.join(known)}", value)


def _check_shape(shape: Any) -> None:
    fine = isinstance(shape, list) and all(_is_count(dim) for dim in shape)
    expect(fine, "shape", "a list of integers of at least 0", shape)
    expect(len(shape) <= _MOST_DIMS, "shape", f"at most {_MOST_DIMS} dimensions", shape)
    largest = math.prod(max(1, dim) for dim in shape)
    expect(largest <= _MOST_ELEMENTS, "shape", f"at most {_MOST_ELEMENTS} elements", shape)


def _check_counts(entry: ArchiveEntry) -> None:
    least = entry.size if entry.encoding == DENSE else 0
    fine = _is_count(entry.values) and least <= entry.values <= entry.size
    expect(fine, "values", f"{least} to {entry.size}", entry.values)
    streams = stream_count(entry.encoding, entry.itemsize)
    fine = len(entry.streams) == streams and all(_is_count(size) for size in entry.streams)
    expect(fine, "streams", f"{streams} sizes of at least 0", entry.streams)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
