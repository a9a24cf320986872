"""Readers of files that anybody may have written: documented errors, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from tests.fuzz.running import bounded, scratch
from tests.fuzz.targets import TARGETS, Reader

FOUND = sorted((Path(__file__).parent / "found").iterdir())
# Cases of each target in every run of the tests; exports are built, which takes longer.
CASES = 60
FEW = 8

every_target = pytest.mark.parametrize("name", TARGETS)


@pytest.fixture(scope="module")
def readers() -> Iterator[Callable[[str], Reader]]:
    """Return a function that makes the reader of a target once."""
    with ExitStack() as stack:
        yield cache(lambda name: Reader(TARGETS[name], stack.enter_context(scratch())))


@every_target
def test_whole_files_are_accepted(name, readers):
    reader = readers(name)
    refused = [seed for seed in reader.seeds if not reader.read(seed)]
    assert not refused


@every_target
def test_some_cases(name, readers):
    reader = readers(name)
    with bounded():
        done = [
            reader.read(reader.case(number))
            for number in range(FEW if name.startswith("export") else CASES)
        ]
    assert not reader.target.errors or not all(done), "changes are noticed"


@pytest.mark.parametrize("path", FOUND, ids=[path.name for path in FOUND])
def test_what_was_found_is_mended(path, readers):
    (name,) = [name for name in TARGETS if path.name.startswith(name.replace(" ", "-") + ".")]
    with bounded():
        readers(name).read(path.read_bytes())
