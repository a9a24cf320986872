"""A push that is killed has published all of its commit or nothing, and can be done again."""

from __future__ import annotations

import random
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hf_td.hub import export_model, push_to_hub
from tests.faults.injecting import DONE, Act, ended, kill_before, killed_after, operations_of
from tests.faults.test_faults import spread
from tests.faults.trials import Fault, Tally
from tests.hub.loopback import LoopbackHub
from tests.hub.push.published import ON_A_LOOPBACK_HUB, REPO, content_of
from tests.tiny import tiny_model

pytestmark = [*ON_A_LOOPBACK_HUB, pytest.mark.faults]


@pytest.fixture
def folder(tmp_path) -> Path:
    return export_model(tiny_model("bert"), tmp_path / "export", check=False).folder


def check(hub: LoopbackHub, folder: Path, act: Act, fault: Fault) -> None:
    """Raise AssertionError unless a push to an empty Hub survives a fault."""
    hub.repositories.clear()
    how = fault(act)
    found: Any = hub.files(REPO) if REPO in hub.repositories else {}
    assert found in ({}, content_of(folder)), "a part of the files is published"
    assert how != DONE or found
    assert ended(act) == DONE
    assert hub.files(REPO) == content_of(folder)


def test_killed_pushes(hub: LoopbackHub, folder: Path, tally: Tally):
    act = partial(push_to_hub, folder, REPO)
    count = operations_of(act)
    assert count > 5, "requests are counted"
    for number in spread(count, 20):
        fault = partial(ended, fault=kill_before(number))
        tally.note(f"killed before {number}", partial(check, hub, folder, act, fault))
    begun = time.monotonic()
    check(hub, folder, act, ended)
    seconds = (time.monotonic() - begun) / 2
    draws = random.Random(0)
    for _ in range(4):
        moment = draws.uniform(0, seconds)
        fault = partial(killed_after, moment)
        tally.note(f"killed after {moment} s", partial(check, hub, folder, act, fault))
