"""A copy of a disk, made while it is in use, is what a power cut leaves of it. A full disk.

Needs Linux, root and a loop device. The disk has ext4, whose journal is written every five seconds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from hf_td import export_model
from hf_td.files import append_json_line, read_json_lines, write_json, write_text
from tests.tiny import TEXT, tiny_model

pytestmark = pytest.mark.slow

_CUTS = (0, 1, 4, 7, 10)  # seconds after the call has returned


def run(*words: Any) -> None:
    subprocess.run(list(map(str, words)), check=True, capture_output=True)


@contextmanager
def mounted(image: Path, place: Path) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    run("mount", "-o", "loop", image, place)
    try:
        yield place
    finally:
        run("umount", place)


@pytest.fixture
def image(tmp_path) -> Path:
    """The file of a disk that is formatted, once it is known that it can be mounted."""
    if sys.platform != "linux" or os.geteuid() or not shutil.which("mkfs.ext4"):
        pytest.skip("needs Linux, root and mkfs.ext4")
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    run("mkfs.ext4", "-q", "-F", path)
    try:
        with mounted(path, tmp_path / "disk-mounted"):
            pass
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no loop device can be mounted: {error.stderr.decode()}")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())} if folder.is_dir() else {}


def after_cuts(image: Path, folder: str = "export") -> Iterator[dict[str, bytes]]:
    """Yield what is in a folder after power cuts at some moments from now on."""
    begun = time.monotonic()
    for number, seconds in enumerate(_CUTS):
        time.sleep(max(0.0, begun + seconds - time.monotonic()))
        copy = shutil.copyfile(image, image.with_name(f"copy-{number}"))
        with mounted(copy, image.with_name(f"copy-{number}-mounted")) as place:
            yield contents(place / folder)
        copy.unlink()


def test_an_export_that_has_returned_is_there_after_a_power_cut(image, tmp_path):
    with mounted(image, tmp_path / "mounted") as place:
        export_model(tiny_model("llama"), place / "export", check=False)
        os.sync()
        model = tiny_model("llama", seed=1)
        export_model(model, place / "export", metrics={"x": 1}, overwrite=True, check=False)
        new = contents(place / "export")
        assert "metrics.json" in new
        assert list(after_cuts(image)) == [new] * len(_CUTS)


def test_results_and_lines_that_have_returned_are_there(image, tmp_path):
    with mounted(image, tmp_path / "mounted") as place:
        write_json(place / "run" / "results.json", "old")
        os.sync()
        write_json(place / "run" / "results.json", "new")
        append_json_line(place / "run" / "cells.jsonl", 1)
        new = contents(place / "run")
        assert list(after_cuts(image, "run")) == [new] * len(_CUTS)
        assert read_json_lines(place / "run" / "cells.jsonl") == [1]


def test_a_careless_writer_is_found_out(image, tmp_path):
    with mounted(image, tmp_path / "mounted") as place:
        (place / "export").mkdir()
        (place / "export" / "config.json").write_text("old")
        os.sync()
        (place / "draft").mkdir()
        (place / "draft" / "config.json").write_text("new")
        shutil.rmtree(place / "export")
        (place / "draft").rename(place / "export")
        new = contents(place / "export")
        assert list(after_cuts(image)) != [new] * len(_CUTS)


def test_a_full_disk_is_named_and_the_old_export_stays(image, tmp_path):
    with mounted(image, tmp_path / "mounted") as place:
        export_model(tiny_model("llama"), place / "export", check=False)
        old = contents(place / "export")
        sizes: dict[str, Any] = {
            "hidden_size": 512,
            "intermediate_size": 4096,
            "num_hidden_layers": 4,
        }
        large = LlamaForCausalLM(LlamaConfig(**{**TEXT, **sizes}))
        with pytest.raises(OSError, match=r"No space left on device: '.*/mounted/export'"):
            export_model(large, place / "export", overwrite=True, check=False)
        with pytest.raises(OSError, match=r"No space left on device: '.*/mounted/page\.md'"):
            write_text(place / "page.md", "x" * (100 << 20))
        assert contents(place / "export") == old
        assert {path.name for path in place.iterdir()} == {"export", "lost+found"}
