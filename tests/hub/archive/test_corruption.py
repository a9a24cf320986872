"""A changed byte anywhere is noticed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from hf_td.hub.archive import load_archive, read_archive_header
from hf_td.hub.archive.header import PREAMBLE, VERSION


def overwrite(file: BinaryIO, place: int, byte: int) -> None:
    file.seek(place)
    file.write(bytes([byte]))


def test_one_changed_byte_anywhere_is_noticed(archive: Path):
    whole = archive.read_bytes()
    with archive.open("r+b", buffering=0) as file:
        for place, byte in enumerate(whole):
            overwrite(file, place, byte ^ 0x40)
            with pytest.raises(ValueError, match=r"model\.hftd: .* should be "):
                load_archive(archive)
            overwrite(file, place, byte)
    assert archive.read_bytes() == whole


def test_one_missing_byte_anywhere_is_noticed(archive: Path):
    for length in reversed(range(archive.stat().st_size)):
        os.truncate(archive, length)
        with pytest.raises(ValueError, match=r"model\.hftd: the (preamble|header's end) should be"):
            read_archive_header(archive)


def test_trailing_bytes_are_noticed(archive: Path):
    archive.write_bytes(archive.read_bytes() + b"\0")
    with pytest.raises(ValueError, match=r"the header's end should be the end of the file"):
        load_archive(archive)


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        (0, b"HFTDARC0", r"the magic should be b'HFTDARCH'"),
        (0, b"\x80\x04ctorch", r"the magic should be b'HFTDARCH'"),
        (1, VERSION + 1, r"the version should be 1, got 2"),
        (2, 0, r"the header's end should be the end of the file"),
        (2, 2**64 - 1, r"the header's end should be the end of the file"),
        (3, 2**64 - 1, r"the header's length should be at most 100000000"),
        (4, bytes(32), r"the header's checksum should be 0000"),
    ],
)
def test_preambles_that_are_refused(archive: Path, field: int, value: Any, match: str):
    whole = archive.read_bytes()
    fields = list(PREAMBLE.unpack_from(whole))
    fields[field] = value
    archive.write_bytes(PREAMBLE.pack(*fields) + whole[PREAMBLE.size :])
    with pytest.raises(ValueError, match=rf"model\.hftd: {match}"):
        load_archive(archive)
