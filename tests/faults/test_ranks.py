"""A rank that dies ends the others, and the run resumes to the bits of one that nobody killed."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState

from tests.faults.cases import CASES
from tests.faults.injecting import DONE, KILLED, Act, kill_before, start, wait
from tests.faults.trials import Tally

pytestmark = pytest.mark.faults

TRAINING = CASES["training"]
RANKS = 2


def join(rank: int, port: int, fault: Act) -> Act:
    """Return what a process does before it trains as one of the ranks."""

    def begin() -> None:
        names = (
            "RANK",
            "LOCAL_RANK",
            "WORLD_SIZE",
            "LOCAL_WORLD_SIZE",
            "MASTER_ADDR",
            "MASTER_PORT",
        )
        values = (rank, rank, RANKS, RANKS, "127.0.0.1", port)
        os.environ.update(dict(zip(names, map(str, values), strict=True)))
        AcceleratorState._reset_state(reset_partial_state=True)
        fault()

    return begin


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def train(act: Act, faults: dict[int, Act], kill: Callable[[list[int]], None]) -> list[str]:
    """Train in ranks, of which some have a fault; `kill` is given their processes."""
    port = free_port()
    ranks = [start(act, join(r, port, faults.get(r, lambda: None))) for r in range(RANKS)]
    kill(ranks)
    return [wait(rank, seconds=120) for rank in ranks]


def nobody(ranks: list[int]) -> None:
    pass


def after(seconds: float, rank: int, ranks: list[int]) -> None:
    """Kill a rank after a time."""
    time.sleep(seconds)
    os.kill(ranks[rank], signal.SIGKILL)


def test_dying_ranks(tmp_path: Path, tally: Tally):
    folders = (tmp_path / str(number) for number in range(99))

    def prepared() -> tuple[Path, Any]:
        folder = next(folders)
        folder.mkdir()
        return folder, TRAINING.prepare(folder)

    whole, act = prepared()
    begun = time.monotonic()
    assert train(act, {}, nobody) == [DONE] * RANKS
    seconds = time.monotonic() - begun
    expected = TRAINING.state(whole)

    def check(faults: dict[int, Act], kill: Callable[[list[int]], None]) -> None:
        folder, act = prepared()
        how = train(act, faults, kill)
        assert how == [DONE] * RANKS or (KILLED in how and how.count(DONE) < RANKS), how
        assert TRAINING.state(folder) in (None, expected)
        assert train(act, {}, nobody) == [DONE] * RANKS
        assert TRAINING.state(folder) == expected

    for number in (5, 60):
        tally.note(f"the first, before {number}", partial(check, {0: kill_before(number)}, nobody))
    draws = random.Random(0)
    for index in range(4):
        moment = draws.uniform(0.2, 1) * seconds
        kill = partial(after, moment, index % RANKS)
        tally.note(f"rank {index % RANKS} after {moment} s", partial(check, {}, kill))
