"""Describes the tensors of an archive, in JSON that is checked before it is believed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

import torch

from hf_td.hub.archive.codec import DENSE, ENCODINGS
from hf_td.hub.archive.errors import expect, naming

# The keys of the safetensors metadata. The digest is that of the description.
FORMAT_KEY, DESCRIPTION_KEY, DIGEST_KEY = "format", "description", "digest"
FORMAT = "hf_td.archive.1"

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

_MOST_DIMS = 64
# More elements than any tensor has, and few enough for every stride to fit 64 bits.
_MOST_ELEMENTS = 1 << 48


@dataclass(frozen=True, kw_only=True)
class ArchiveEntry:
    """A description of one archived tensor.

    Attributes:
        names: of the tensor; more than one where tensors are tied.
        dtype: a key of `DTYPES`.
        shape: of the dense tensor.
        encoding: "dense", "bitmask" or "gaps".
        values: number of elements that are written out.
        digest: BLAKE2b of the streams one after the other, 64 hexadecimal digits.
    """

    names: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...]
    encoding: str
    values: int
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
    def streams(self) -> list[str]:
        """Names of its streams in the file: the positions, then the planes from the highest."""
        parts = [] if self.encoding == DENSE else ["positions"]
        parts += [f"plane{index}" for index in range(self.itemsize)]
        return [f"{self.names[0]}/{part}" for part in parts]


@dataclass(frozen=True, kw_only=True)
class ArchiveDescription:
    """A description of an archive.

    Attributes:
        metadata: strings by their names, from the caller of `save_archive`.
        entries: the archived tensors.
    """

    metadata: Mapping[str, str]
    entries: tuple[ArchiveEntry, ...]

    @property
    def dense_bytes(self) -> int:
        """Bytes of all tensors once they are loaded, tied ones counted once."""
        return sum(entry.dense_bytes for entry in self.entries)

    def to_metadata(self) -> dict[str, str]:
        """Return the metadata of the safetensors file."""
        tensors = [asdict(entry) for entry in self.entries]
        text = json.dumps(
            {"metadata": dict(self.metadata), "tensors": tensors}, separators=(",", ":")
        )
        return {FORMAT_KEY: FORMAT, DESCRIPTION_KEY: text, DIGEST_KEY: digest_of([text.encode()])}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str] | None) -> ArchiveDescription:
        """Return the description in the metadata of a safetensors file.

        Raises:
            ValueError: a field is not as `to_metadata` writes it; the message names the field.
        """
        found = dict(metadata or {})
        expect(found.get(FORMAT_KEY) == FORMAT, FORMAT_KEY, FORMAT, found.get(FORMAT_KEY))
        _expect_keys(found, {FORMAT_KEY, DESCRIPTION_KEY, DIGEST_KEY}, "the safetensors metadata")
        text = found[DESCRIPTION_KEY]
        digest = digest_of([text.encode()])
        expect(found[DIGEST_KEY] == digest, "the description's digest", digest, found[DIGEST_KEY])
        values = _parse(text)
        _expect_keys(values, {"metadata", "tensors"}, "the description")
        check_metadata(values["metadata"])
        expect(isinstance(values["tensors"], list), "tensors", "a list", values["tensors"])
        entries = tuple(_entry(index, entry) for index, entry in enumerate(values["tensors"]))
        _check_unique([name for entry in entries for name in entry.names], "a tensor's name")
        return cls(metadata=values["metadata"], entries=entries)


def digest_of(streams: Sequence[bytes | memoryview]) -> str:
    """Return the BLAKE2b of streams one after the other, as 64 hexadecimal digits."""
    digest = blake2b(digest_size=32)
    for stream in streams:
        digest.update(stream)
    return digest.hexdigest()


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


def _parse(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the description should be JSON: {error}") from error


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
        names = values["names"]
        expect(isinstance(names, list) and len(names) > 0, "names", "a list of at least one", names)
        for name in names:
            check_name(name)
        _check_choice("dtype", values["dtype"], DTYPES)
        _check_choice("encoding", values["encoding"], ENCODINGS)
        _check_shape(values["shape"])
        digest = values["digest"]
        fine = isinstance(digest, str) and len(digest) == 64 and set(digest) <= _HEXADECIMAL
        expect(fine, "digest", "64 hexadecimal digits", digest)
        entry = ArchiveEntry(**{**values, "names": tuple(names), "shape": tuple(values["shape"])})
        least = entry.size if entry.encoding == DENSE else 0
        fine = _is_count(entry.values) and least <= entry.values <= entry.size
        expect(fine, "values", f"{least} to {entry.size}", entry.values)
    return entry


_HEXADECIMAL = set("0123456789abcdef")


def _check_choice(field: str, value: Any, known: Any) -> None:
    fine = isinstance(value, str) and value in known
    expect(fine, field, f"one of {', '.join(known)}", value)


def _check_shape(shape: Any) -> None:
    fine = isinstance(shape, list) and all(_is_count(dim) for dim in shape)
    expect(fine, "shape", "a list of integers of at least 0", shape)
    expect(len(shape) <= _MOST_DIMS, "shape", f"at most {_MOST_DIMS} dimensions", shape)
    largest = math.prod(max(1, dim) for dim in shape)
    expect(largest <= _MOST_ELEMENTS, "shape", f"at most {_MOST_ELEMENTS} elements", shape)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
