"""Archives that lie are refused although their checksums are right."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_td.hub.archive import load_archive, read_archive_header, save_archive
from hf_td.hub.archive.codec import BITMASK, DENSE, ENCODINGS, GAPS, Coded, decode
from hf_td.hub.archive.header import MAGIC, PREAMBLE, VERSION, digest_of
from tests.hub.archive.tensors import assert_same_bits, compress


def parts_of(path: Path) -> tuple[bytes, dict[str, Any]]:
    whole = path.read_bytes()
    offset = PREAMBLE.unpack_from(whole)[2]
    return whole[PREAMBLE.size : offset], json.loads(whole[offset:])


def forge(path: Path, streams: bytes, header: Any) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    digest = digest_of(text).digest()
    offset = PREAMBLE.size + len(streams)
    path.write_bytes(PREAMBLE.pack(MAGIC, VERSION, offset, len(text), digest) + streams + text)


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
        ("dtype", "float32", "streams should be 5 sizes"),
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
        ("streams", [], "streams should be 3 sizes"),
        ("streams", {"0": 1}, "streams should be a list"),
        ("streams", [10, 10, -5], "streams should be 3 sizes of at least 0"),
        ("streams", [10, 10, HUGE], "the sum of all stream sizes should be"),
        ("streams", [1, 1, 1], "the sum of all stream sizes should be"),
        ("digest", "0" * 63, "digest should be 64 hexadecimal digits"),
        ("digest", "Z" * 64, "digest should be 64 hexadecimal digits"),
        ("digest", None, "digest should be 64 hexadecimal digits"),
        ("code", "print", r"tensors\[0\] should be the keys"),
        ("names", ["dense"], "a tensor's name should be there once, got 'dense'"),
        ("names", ["w", "w"], "a tensor's name should be there once, got 'w'"),
    ],
)
def test_entries_that_are_refused(archive: Path, field: str, value: Any, match: str):
    streams, header = parts_of(archive)
    header["tensors"][0][field] = value
    forge(archive, streams, header)
    for read in (read_archive_header, load_archive):
        with pytest.raises(ValueError, match=rf"model\.hftd: .*{match}"):
            read(archive)


@pytest.mark.parametrize(
    ("header", "match"),
    [
        (b"", "the header should be JSON"),
        (b"{", "the header should be JSON"),
        (b"\xff\xfe", "the header should be JSON"),
        (b"[" * 200_000, "the header should be JSON"),
        (b"1" * 10_000, "the header should be JSON"),
        (b'{"metadata": {}, "metadata": {}, "tensors": []}', "the header should be JSON: a key"),
        ([], "the header should be a mapping"),
        ({}, "the header should be the keys"),
        ({"metadata": {}, "tensors": [], "extra": 1}, "the header should be the keys"),
        ({"metadata": {"a": {}}, "tensors": []}, "metadata should be a mapping of strings"),
        ({"metadata": {}, "tensors": {}}, "tensors should be a list"),
        ({"metadata": {}, "tensors": [3]}, r"tensors\[0\] should be a mapping"),
        ({"metadata": {}, "tensors": [{}]}, r"tensors\[0\] should be the keys"),
        ({"metadata": {}, "tensors": []}, "the sum of all stream sizes should be 4, got 0"),
    ],
)
def test_headers_that_are_refused(tmp_path: Path, header: Any, match: str):
    forge(tmp_path / "m.hftd", b"four", header)
    with pytest.raises(ValueError, match=rf"m\.hftd: {match}"):
        read_archive_header(tmp_path / "m.hftd")


def forge_tensor(path: Path, coded: Coded, shape: list[int], dtype: str = "uint8") -> None:
    streams = b"".join(coded.streams)
    entry = {
        "names": ["w"],
        "dtype": dtype,
        "shape": shape,
        "encoding": coded.encoding,
        "values": coded.values,
        "streams": [len(stream) for stream in coded.streams],
        "digest": digest_of(streams).hexdigest(),
    }
    forge(path, streams, {"metadata": {}, "tensors": [entry]})


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
    path = tmp_path / "m.hftd"
    forge_tensor(path, Coded(encoding=encoding, values=values, streams=streams), [8])
    with pytest.raises(ValueError, match=rf"m\.hftd: tensor 'w': .*{match}"):
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
    forge_tensor(tmp_path / "m.hftd", Coded(encoding=encoding, values=values, streams=plane), [8])
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"got {1 << 28}"):
        load_archive(tmp_path / "m.hftd")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_an_archive_of_zeros_beyond_the_limit_is_refused(tmp_path: Path):
    path = tmp_path / "m.hftd"
    nothing = Coded(encoding=GAPS, values=0, streams=[compress(b""), compress(b"")])
    forge_tensor(path, nothing, [1 << 40])
    assert read_archive_header(path).dense_bytes == 1 << 40
    with pytest.raises(ValueError, match="size of all tensors should be at most limit=68719476736"):
        load_archive(path)


def test_the_limit_is_the_callers(tmp_path: Path):
    path = tmp_path / "m.hftd"
    save_archive({"a": torch.zeros(100), "b": torch.zeros(100)}, path)
    assert len(load_archive(path, limit=800)) == 2
    with pytest.raises(ValueError, match="at most limit=799 bytes, got 800"):
        load_archive(path, limit=799)
