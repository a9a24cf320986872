"""After any fault a reader finds the old state or the new one, and the work can be done again."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lab.sweeps.ledger import LINES

from hf_td.files import read_json_lines
from tests.faults.cases import CASES, SLOW_CASES
from tests.faults.injecting import (
    DONE,
    REFUSED,
    ended,
    fail_from,
    kill_before,
    killed_after,
    limit_files,
    operations_of,
)
from tests.faults.trials import Tally, Trials, together

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="fork and signals of POSIX")

CODES = (errno.ENOSPC, errno.EROFS, errno.EIO)
# Moments of random kills for each case.
MOMENTS = 4
# File operations of a case from which on the disk fails, evenly spread.
FAILING = 4
# Operations before which a case is killed. One form of export, and all that is quick, at every one.
KILLS = {**dict.fromkeys(CASES, 12), **dict.fromkeys(("stock", "results", "lines", "sweep"), 400)}

every_case = pytest.mark.parametrize("name", CASES)


def spread(count: int, most: int) -> list[int]:
    """Return at most so many numbers below a count, evenly spread, with both ends.

    >>> spread(5, 3), spread(2, 3), spread(5, 1)
    ([0, 2, 4], [0, 1], [2])
    """
    if count <= most:
        return list(range(count))
    if most == 1:
        return [count // 2]
    return [round(index * (count - 1) / (most - 1)) for index in range(most)]


def strike(tally: Tally, trials: Trials, kills: int, failing: int) -> None:
    """Kill before file operations, and let the disk fail from some on."""
    count = operations_of(trials.act)
    faults = {f"killed before {number}": kill_before(number) for number in spread(count, kills)}
    for index, number in enumerate(spread(count, failing)):
        code = CODES[index % len(CODES)]
        faults[f"{errno.errorcode[code]} from {number} on"] = fail_from(number, code)
    for what, fault in faults.items():
        tally.note(what, partial(trials.check, partial(ended, fault=fault)))


@pytest.mark.parametrize("name", ["stock", "lines", "results"])
def test_a_few_operations(name, tmp_path, tally):
    strike(tally, Trials(CASES[name], tmp_path), kills=3, failing=3)


@pytest.mark.faults
@every_case
def test_every_operation(name, tmp_path, tally):
    strike(tally, Trials(CASES[name], tmp_path), kills=KILLS[name], failing=FAILING)


@pytest.mark.faults
@pytest.mark.parametrize("name", SLOW_CASES)
def test_some_operations_of_slow_work(name, tmp_path, tally):
    strike(tally, Trials(SLOW_CASES[name], tmp_path), kills=3, failing=1)


@pytest.mark.faults
@every_case
def test_random_moments(name, tmp_path, tally):
    trials = Trials(CASES[name], tmp_path)
    begun = time.monotonic()
    ended(trials.act)
    seconds = time.monotonic() - begun
    draws = random.Random(name)
    for _ in range(MOMENTS):
        moment = draws.uniform(0, seconds)
        tally.note(f"killed after {moment} s", partial(trials.check, partial(killed_after, moment)))


@pytest.mark.faults
@every_case
def test_files_that_get_too_large(name, tmp_path, tally):
    trials = Trials(CASES[name], tmp_path)
    for size in (0, 3_000, 60_000):
        fault = limit_files(size)
        tally.note(f"at most {size} bytes", partial(trials.check, partial(ended, fault=fault)))


@pytest.fixture
def small_disk(tmp_path) -> Callable[[int], Any]:
    """Return a function that mounts a disk of so many bytes; Linux and root."""
    if sys.platform != "linux" or os.geteuid():
        pytest.skip("needs Linux and root")

    @contextmanager
    def mounted(size: int) -> Iterator[Path]:
        place = tmp_path / f"disk-{size}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no disk can be mounted: {done.stderr}")
        try:
            yield place
        finally:
            subprocess.run(["umount", str(place)], check=True)
            place.rmdir()  # for the next disk of this test

    return mounted


@pytest.mark.faults
@pytest.mark.parametrize("name", [name for name in CASES if name != "sweep"])
def test_full_disks(name, tmp_path, small_disk, tally):
    case = CASES[name]
    with small_disk(64 << 20) as place:
        used = Trials(case, place).used
    for part in (0.3, 0.8):
        with small_disk(64 << 20) as place:
            act = case.prepare(place)
            before = case.state(place)
            room = max(4096, int(used * part))
            fill(place, room)

            def check(place=place, act=act, before=before) -> None:
                how = ended(act)
                found = case.state(place)
                assert how == DONE or (how == REFUSED and found == before), (how, found, before)
                (place / "filler").unlink()
                assert ended(act) == DONE

            tally.note(f"{room} bytes of room", check)


def fill(place: Path, room: int) -> None:
    """Write a file that leaves so many bytes of a disk."""
    with (place / "filler").open("wb", buffering=0) as file:
        file.write(bytes(max(0, shutil.disk_usage(place).free - room)))


@pytest.mark.faults
@pytest.mark.parametrize("name", [name for name in CASES if name not in ("training", "sweep")])
def test_two_writers(name, tmp_path, tally):
    trials = Trials(CASES[name], tmp_path)

    def check() -> None:
        trials.renew()
        how = together(trials.act)
        assert DONE in how, how
        assert set(how) <= {DONE, REFUSED}, how
        assert trials.case.state(trials.place) == trials.after

    for number in range(2):
        tally.note(f"pair {number}", check)


@pytest.mark.faults
def test_two_sweeps_run_each_cell_once(tmp_path, tally):
    trials = Trials(CASES["sweep"], tmp_path)

    def check() -> None:
        trials.renew()
        assert together(trials.act) == [DONE, DONE]
        lines = [line for line in read_json_lines(trials.place / "out" / LINES) if "cell" in line]
        assert len(lines) == len({line["cell"] for line in lines}) == len(trials.after)

    for number in range(3):
        tally.note(f"pair {number}", check)
