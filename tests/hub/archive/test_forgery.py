"""Archives that lie are refused although their checksums are right."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import numpy, safe_open
from safetensors.torch import save_file

from hf_td.hub.archive import load_archive, read_description, save_archive
from hf_td.hub.archive.codec import BITMASK, DENSE, ENCODINGS, GAPS, Coded, decode
from tests.hub.archive.forging import forge, forge_tensor, parts_of
from tests.hub.archive.tensors import assert_same_bits, compress


def test_a_forgery_without_changes_loads(archive: Path):
    before = load_archive(archive)
    forge(archive, *parts_of(archive))
    for name, tensor in load_archive(archive).items():
        assert_same_bits(tensor, before[name])


HUGE = 1 << 62


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("names", [], "names should be a list of at least one"),
        ("names", "w", "names should be a list of at least one"),
        ("names", ["../w"], "a tensor's name should be printable, without slashes"),
        ("names", [".."], "a tensor's name should be printable, without slashes"),
        ("names", ["C:\\w"], "a tensor's name should be printable, without slashes"),
        ("names", ["a\u202eb"], "a tensor's name should be printable, without slashes"),
        ("names", [3], "a tensor's name should be printable, without slashes"),
        ("dtype", "float", "dtype should be one of bool"),
        ("dtype", "complex128", "dtype should be one of bool"),
        ("dtype", ["bool"], "dtype should be one of bool"),
        ("dtype", "float32", "the names of the streams should be"),
        ("encoding", "pickle", "encoding should be one of dense, bitmask, gaps"),
        ("encoding", None, "encoding should be one of dense, bitmask, gaps"),
        ("encoding", "dense", "values should be 1024 to 1024"),
        ("shape", [-16, -64], "shape should be a list of integers of at least 0"),
        ("shape", [16.0, 64], "shape should be a list of integers of at least 0"),
        ("shape", [True], "shape should be a list of integers of at least 0"),
        ("shape", 1024, "shape should be a list of integers of at least 0"),
        ("shape", [HUGE], "shape should be at most"),
        ("shape", [0, HUGE], "shape should be at most"),
        ("shape", [1] * 65, "shape should be at most 64 dimensions"),
        ("shape", [3, 3], "values should be 0 to 9"),
        ("values", -1, "values should be 0 to 1024"),
        ("values", 1025, "values should be 0 to 1024"),
        ("values", False, "values should be 0 to 1024"),
        ("values", 64.0, "values should be 0 to 1024"),
        ("digest", "0" * 63, "digest should be 64 hexadecimal digits"),
        ("digest", "Z" * 64, "digest should be 64 hexadecimal digits"),
        ("digest", None, "digest should be 64 hexadecimal digits"),
        ("code", "print", r"tensors\[0\] should be the keys"),
        ("names", ["dense"], "a tensor's name should be there once, got 'dense'"),
        ("names", ["w", "w"], "a tensor's name should be there once, got 'w'"),
        ("names", ["w"], r"the names of the streams should be .*'w/plane0'"),
    ],
)
def test_entries_that_are_refused(archive: Path, field: str, value: Any, match: str):
    streams, description = parts_of(archive)
    description["tensors"][0][field] = value
    forge(archive, streams, description)
    for read in (read_description, load_archive):
        with pytest.raises(ValueError, match=rf"model\.archive\.safetensors: .*{match}"):
            read(archive)


@pytest.mark.parametrize(
    ("description", "match"),
    [
        ("", "the description should be JSON"),
        ("{", "the description should be JSON"),
        ("\ufeff", "the description should be JSON"),
        ("[" * 200_000, "the description should be JSON"),
        ("1" * 10_000, "the description should be JSON"),
        (
            '{"metadata": {}, "metadata": {}, "tensors": []}',
            "the description should be JSON: a key",
        ),
        ([], "the description should be a mapping"),
        ({}, "the description should be the keys"),
        ({"metadata": {}, "tensors": [], "extra": 1}, "the description should be the keys"),
        ({"metadata": {"a": {}}, "tensors": []}, "metadata should be a mapping of strings"),
        ({"metadata": {}, "tensors": {}}, "tensors should be a list"),
        ({"metadata": {}, "tensors": [3]}, r"tensors\[0\] should be a mapping"),
        ({"metadata": {}, "tensors": [{}]}, r"tensors\[0\] should be the keys"),
        ({"metadata": {}, "tensors": []}, r"the names of the streams should be \[\], got \['w/"),
    ],
)
def test_descriptions_that_are_refused(tmp_path: Path, description: Any, match: str):
    path = tmp_path / "m.archive.safetensors"
    forge(path, {"w/plane0": b"four"}, description)
    with pytest.raises(ValueError, match=rf"m\.archive\.safetensors: {match}"):
        read_description(path)


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        ({"format": "pt"}, r"format should be hf_td\.archive\.1, got 'pt'"),
        ({"format": "hf_td.archive.2"}, r"format should be hf_td\.archive\.1, got 'hf_td"),
        ({"digest": "0" * 64}, "the description's digest should be"),
        ({"digest": ""}, "the description's digest should be"),
        ({"code": "print"}, "the safetensors metadata should be the keys"),
    ],
)
def test_metadata_that_are_refused(archive: Path, metadata: dict[str, str], match: str):
    forge(archive, *parts_of(archive), **metadata)
    for read in (read_description, load_archive):
        with pytest.raises(ValueError, match=rf"model\.archive\.safetensors: {match}"):
            read(archive)


def test_weights_that_are_no_archive_are_refused(tmp_path: Path):
    for metadata in (None, {"format": "pt"}):
        save_file({"w": torch.ones(2)}, tmp_path / "m.safetensors", metadata)
        with pytest.raises(ValueError, match=r"m\.safetensors: format should be hf_td\.archive\.1"):
            load_archive(tmp_path / "m.safetensors")


def test_a_stream_that_is_missing_is_refused(archive: Path):
    streams, description = parts_of(archive)
    del streams["gaps/plane1"]
    forge(archive, streams, description)
    with pytest.raises(ValueError, match="the names of the streams should be"):
        read_description(archive)


def test_a_stream_that_nothing_describes_is_refused(archive: Path):
    streams, description = parts_of(archive)
    forge(archive, {**streams, "gaps/plane2": b"more"}, description)
    with pytest.raises(ValueError, match="the names of the streams should be"):
        read_description(archive)


def test_streams_that_are_exchanged_are_refused(archive: Path):
    streams, description = parts_of(archive)
    first, second = streams["gaps/plane0"], streams["gaps/plane1"]
    forge(archive, {**streams, "gaps/plane0": second, "gaps/plane1": first}, description)
    with pytest.raises(ValueError, match="tensor 'gaps': the digest should be"):
        load_archive(archive)


@pytest.mark.parametrize(
    "array", [np.zeros((2, 2), np.uint8), np.zeros((), np.uint8), np.zeros(4, np.int8)], ids=str
)
def test_streams_that_are_no_bytes_are_refused(tmp_path: Path, array: np.ndarray):
    path = tmp_path / "m.archive.safetensors"
    save_archive({"w": torch.ones(4, dtype=torch.uint8)}, path)
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
    numpy.save_file({"w/plane0": array}, path, metadata)
    with pytest.raises(ValueError, match="stream 'w/plane0' should be U8 of one dimension, got"):
        read_description(path)


# Eight bytes with ones at 1 and 6.
ONES = compress(b"\x01\x01")
FRAME = compress(b"\1")
STREAMS_THAT_ARE_REFUSED = {
    "not zstd": (BITMASK, 2, [b"nonsense", ONES], "positions should be a zstd frame"),
    "empty": (BITMASK, 2, [b"", ONES], "positions should be a zstd frame"),
    "cut": (BITMASK, 2, [compress(b"\x42"), ONES[:-1]], "byte plane 0 should be a zstd frame"),
    "two frames": (DENSE, 8, [compress(b"8" * 8) + FRAME], "byte plane 0 should be a zstd frame"),
    "size unknown": (
        DENSE,
        8,
        [compress(b"8" * 8, write_content_size=False)],
        "byte plane 0 should be 8 bytes",
    ),
    "long plane": (DENSE, 8, [compress(b"9" * 9)], "byte plane 0 should be 8 bytes, got 9"),
    "short plane": (DENSE, 8, [compress(b"7" * 7)], "byte plane 0 should be 8 bytes, got 7"),
    "long mask": (BITMASK, 2, [compress(b"\x42\0"), ONES], "positions should be 1 bytes, got 2"),
    "few bits": (BITMASK, 2, [compress(b"\x02"), ONES], "should be 2 positions, got 1"),
    "many bits": (BITMASK, 2, [compress(b"\x07"), ONES], "should be 2 positions, got 3"),
    "long gaps": (GAPS, 2, [compress(b"\1\1\1"), ONES], "positions should be 2 bytes, got 3"),
    "short gaps": (GAPS, 2, [FRAME, ONES], "positions should be 2 bytes, got 1"),
    "no gaps": (GAPS, 2, [compress(b"\xff\xff"), ONES], "should be 2 positions, got 0"),
    "gaps too far": (GAPS, 2, [compress(b"\1\6"), ONES], "should be positions below 8, got 8"),
}


@pytest.mark.parametrize("case", STREAMS_THAT_ARE_REFUSED)
def test_streams_that_are_refused(tmp_path: Path, case: str):
    encoding, values, streams, match = STREAMS_THAT_ARE_REFUSED[case]
    path = tmp_path / "m.archive.safetensors"
    forge_tensor(path, Coded(encoding=encoding, values=values, streams=streams), [8])
    with pytest.raises(ValueError, match=rf"m\.archive\.safetensors: tensor 'w': .*{match}"):
        load_archive(path)


def test_bits_behind_the_end_are_refused():
    coded = Coded(encoding=BITMASK, values=2, streams=[compress(b"\x42"), ONES])
    with pytest.raises(ValueError, match="should be positions below 6, got 6"):
        decode(coded, 6, 1)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_bomb_is_refused_before_it_takes_memory(tmp_path: Path, encoding: str):
    bomb = compress(bytes(1 << 28))
    values = 8 if encoding == DENSE else 2
    plane = [bomb] if encoding == DENSE else [bomb, ONES]
    forge_tensor(
        tmp_path / "m.archive.safetensors",
        Coded(encoding=encoding, values=values, streams=plane),
        [8],
    )
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"got {1 << 28}"):
        load_archive(tmp_path / "m.archive.safetensors")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_an_archive_of_zeros_beyond_the_limit_is_refused(tmp_path: Path):
    path = tmp_path / "m.archive.safetensors"
    nothing = Coded(encoding=GAPS, values=0, streams=[compress(b""), compress(b"")])
    forge_tensor(path, nothing, [1 << 40])
    assert read_description(path).dense_bytes == 1 << 40
    with pytest.raises(ValueError, match="size of all tensors should be at most limit=68719476736"):
        load_archive(path)


def test_the_limit_is_the_callers(tmp_path: Path):
    path = tmp_path / "m.archive.safetensors"
    save_archive({"a": torch.zeros(100), "b": torch.zeros(100)}, path)
    assert len(load_archive(path, limit=800)) == 2
    with pytest.raises(ValueError, match="at most limit=799 bytes, got 800"):
        load_archive(path, limit=799)
