"""A changed byte anywhere is noticed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import pytest

from hf_td.hub.archive import load_archive, read_description


def overwrite(file: BinaryIO, place: int, byte: int) -> None:
    file.seek(place)
    file.write(bytes([byte]))


@pytest.mark.parametrize("change", [0x40, 0x01, 0x20])
def test_one_changed_byte_anywhere_is_noticed(archive: Path, change: int):
    whole = archive.read_bytes()
    with archive.open("r+b", buffering=0) as file:
        for place, byte in enumerate(whole):
            overwrite(file, place, byte ^ change)
            with pytest.raises(ValueError, match=r"model\.archive\.safetensors: .* should be "):
                load_archive(archive)
            overwrite(file, place, byte)
    assert archive.read_bytes() == whole


def test_one_missing_byte_anywhere_is_noticed(archive: Path):
    for length in reversed(range(archive.stat().st_size)):
        os.truncate(archive, length)
        with pytest.raises(ValueError, match="the file should be whole safetensors"):
            read_description(archive)


def test_trailing_bytes_are_noticed(archive: Path):
    archive.write_bytes(archive.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="the file should be whole safetensors"):
        load_archive(archive)
