"""Tensors that no archive can hold are refused, and a failed write leaves the old file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_td.hub.archive import read_description, save_archive


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\nb", "a\0b", "\ud800"])
def test_names_that_could_be_paths_are_refused(tmp_path: Path, name: str):
    with pytest.raises(ValueError, match="a tensor's name should be printable"):
        save_archive({name: torch.ones(2)}, tmp_path / "m.archive.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["m.safetensors", "pytorch_model.bin", "m", ".archive.safetensors"]
)
def test_only_the_suffix_of_archives_is_written(tmp_path: Path, name: str):
    with pytest.raises(ValueError, match=r"path of an archive should be \*\.archive\.safetensors"):
        save_archive({}, tmp_path / name)


@pytest.mark.parametrize(
    ("tensor", "match"),
    [
        (torch.ones(2, dtype=torch.complex128), "tensor 'bad': its dtype should be one of bool"),
        (torch.ones(2, device="meta"), "tensor 'bad': its device should be one with data"),
        (torch.eye(2).to_sparse(), "tensor 'bad': its layout should be torch.strided"),
        ([1, 2], "tensor 'bad': it should be a tensor"),
    ],
)
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, tensor: Any, match: str):
    path = tmp_path / "m.archive.safetensors"
    save_archive({"w": torch.ones(3)}, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=match):
        save_archive({"good": torch.randn(1000), "bad": tensor}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("metadata", [{"a": 1}, {1: "a"}, ["a"]])
def test_metadata_is_strings(tmp_path: Path, metadata: Any):
    with pytest.raises(ValueError, match="metadata should be a mapping of strings to strings"):
        save_archive({}, tmp_path / "m.archive.safetensors", metadata=metadata)


def test_metadata_comes_back(tmp_path: Path):
    save_archive(
        {}, tmp_path / "m.archive.safetensors", metadata={"sparsity": "0.9", "Ü": "\ud800"}
    )
    assert read_description(tmp_path / "m.archive.safetensors").metadata == {
        "sparsity": "0.9",
        "Ü": "\ud800",
    }


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize("existed", [False, True])
def test_a_killed_write_leaves_the_old_file_or_none(tmp_path: Path, existed: bool):
    path = tmp_path / "m.archive.safetensors"
    if existed:
        save_archive({"w": torch.ones(3)}, path)
    before = path.read_bytes() if existed else None
    program = """
import os, signal, sys, torch
from hf_td.hub.archive import save_archive
class Deadly(dict):
    def items(self):
        yield "w", torch.randn(1 << 20)
        os.kill(os.getpid(), signal.SIGKILL)
save_archive(Deadly(w=torch.ones(1)), sys.argv[1])
"""
    ended = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert all(file == path for file in tmp_path.iterdir())
    assert (path.read_bytes() if path.exists() else None) == before
