"""Calls are timed in turn, and their times summarised."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hf_td.analysis import timing
from hf_td.analysis.timing import Quartiles, seconds_of, time_in_turn


def test_calls_take_turns_and_the_warmup_is_not_counted():
    order: list[str] = []
    found = time_in_turn([lambda: order.append("a"), lambda: order.append("b")], rounds=3, warmup=2)
    assert order == ["a", "b"] * 5
    assert [len(times) for times in found] == [3, 3]


def test_times_are_seconds_of_each_call(monkeypatch):
    clock = iter(float(tick) for tick in (0, 2, 10, 13, 20, 26, 30, 39))
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    found = time_in_turn([lambda: None, lambda: None], rounds=2, warmup=0)
    assert found == [(2.0, 6.0), (3.0, 9.0)]


def test_the_device_is_waited_for_before_and_after(monkeypatch):
    order: list[Any] = []
    monkeypatch.setattr(timing, "synchronize", order.append)
    seconds_of(lambda: order.append("call"), "cuda")
    assert order == ["cuda", "call", "cuda"]


def test_one_round_has_no_quartiles():
    with pytest.raises(ValueError, match="quartiles take at least 2 rounds, got 1"):
        time_in_turn([], rounds=1)


def test_quartiles_are_those_of_the_values_themselves():
    found = Quartiles.of([4.0, 1.0, 2.0, 3.0, 5.0])
    assert (found.median, found.low, found.high) == (3.0, 2.0, 4.0)
    assert str(found) == "3.000 (2.000 to 4.000)"
    assert str(Quartiles(12.34, 10.0, 20.06)) == "12.3 (10.0 to 20.1)"
