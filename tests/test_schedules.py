"""Schedules: one table of all shapes, and properties of ramps and draws."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_td import Schedule
from hf_td.schedules import SHAPES

progress = st.floats(0, 1)
shapes = st.sampled_from(sorted(SHAPES))
schedules = st.builds(
    lambda shape, initial, bounds, sampled, off: Schedule(
        shape=shape,
        initial=initial,
        begin=min(bounds),
        end=max(bounds),
        sampled=sampled,
        off=off * (1 - sampled),
    ),
    shapes,
    st.floats(0, 1),
    st.lists(st.integers(0, 20).map(lambda n: n / 20), min_size=2, max_size=2, unique=True),
    st.sampled_from([0.0, 0.25, 1.0]),
    st.sampled_from([0.0, 0.5, 1.0]),
)


def ramp_of(schedule: Schedule) -> Schedule:
    """Return the schedule without sampled and dense updates."""
    return replace(schedule, sampled=0.0, off=0.0)


# Each shape with its value at the start, in the middle and at the end of the ramp.
TABLE = [
    ("constant", 1.0, 1.0, 1.0),
    ("linear", 0.0, 0.5, 1.0),
    ("cosine", 0.0, 0.5, 1.0),
    ("cubic", 0.0, 0.875, 1.0),
    ("piecewise", 0.0, 0.95, 1.0),
]


def test_the_table_has_every_shape():
    assert {row[0] for row in TABLE} == set(SHAPES)


@pytest.mark.parametrize(("shape", "start", "middle", "end"), TABLE)
@pytest.mark.parametrize(("begin", "until"), [(0.0, 1.0), (0.2, 0.6), (0.0, 0.4), (0.5, 1.0)])
@pytest.mark.parametrize("initial", [0.0, 0.3, 1.0])
def test_the_ramp_starts_and_ends_where_it_should(shape, start, middle, end, begin, until, initial):
    schedule = Schedule(shape=shape, initial=initial, begin=begin, end=until)
    for at, value in [(begin, start), ((begin + until) / 2, middle), (until, end)]:
        assert schedule(at) == pytest.approx(initial + (1 - initial) * value)


@pytest.mark.parametrize(("shape", "start", "middle", "end"), TABLE)
def test_a_schedule_is_constant_outside_its_ramp(shape, start, middle, end):
    schedule = Schedule(shape=shape, begin=0.25, end=0.75)
    assert [schedule(t) for t in (-1.0, 0.0, 0.1, 0.25)] == pytest.approx([start] * 4)
    assert [schedule(t) for t in (0.75, 0.9, 1.0, 2.0)] == pytest.approx([end] * 4)


@given(schedules, progress, progress)
def test_ramps_never_decrease(schedule, one, other):
    ramp = ramp_of(schedule)
    early, late = sorted((one, other))
    assert ramp(early) <= ramp(late) + 1e-12


@given(schedules, st.floats(-2, 3))
def test_a_schedule_is_a_pure_function_into_0_to_1(schedule, at):
    value = schedule(at)
    assert 0 <= value <= 1 + 1e-12
    assert Schedule.parse(schedule.to_dict())(at) == value


@given(schedules)
def test_the_final_rate_is_reached(schedule):
    ramp = ramp_of(schedule)
    assert ramp(1.0) == pytest.approx(1.0)


@pytest.mark.parametrize("step", [0, 1, 9_999, 20_000, 30_000, 39_999, 40_000, 70_000, 100_000])
def test_piecewise_and_linear_are_the_ramps_of_the_paper(step):
    steps, T = 100_000, 40_000
    half = T / 2
    gamma = 0.95 * min(1, step / half) + 0.05 * min(1, max(0, (step - half) / half))
    alpha = min(1, step / T)
    assert Schedule(shape="piecewise", end=0.4)(step / steps) == pytest.approx(gamma)
    assert Schedule(shape="linear", end=0.4)(step / steps) == pytest.approx(alpha)


@given(schedules, progress)
def test_sampled_rates_lie_under_the_ramp(schedule, at):
    ramp = ramp_of(schedule)
    assert 0 <= schedule(at) <= ramp(at)
    assert 0 <= replace(schedule, sampled=1.0, off=0.0)(at) <= ramp(at)


def test_sampled_rates_are_uniform_over_the_run():
    schedule = Schedule(shape="constant", sampled=1.0)
    values = [schedule(i / 1000) for i in range(1000)]
    assert len(set(values)) == 1000
    assert abs(sum(values) / 1000 - 0.5) < 5 / math.sqrt(12 * 1000)


@pytest.mark.parametrize(
    ("sampled", "off"), [(0.0, 0.3), (0.3, 0.0), (0.25, 0.5), (0.5, 0.5), (0.0, 1.0)]
)
def test_the_shares_of_sampled_and_of_dense_updates_are_as_given(sampled, off):
    schedule = Schedule(shape="constant", sampled=sampled, off=off)
    values = [schedule(i / 2000) for i in range(2000)]
    dense = sum(value == 0 for value in values)
    whole = sum(value == 1 for value in values)
    drawn = [value for value in values if 0 < value < 1]
    for count, share in [(dense, off), (whole, 1 - sampled - off), (len(drawn), sampled)]:
        assert abs(count - 2000 * share) <= 5 * math.sqrt(2000 * share * (1 - share))
    if drawn:
        assert abs(sum(drawn) / len(drawn) - 0.5) < 5 / math.sqrt(12 * len(drawn))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampled": -0.1}, "shares of the updates, at least 0 and at most 1 in sum"),
        ({"off": 1.1}, "got sampled=0.0, off=1.1"),
        ({"sampled": 0.6, "off": 0.5}, "shares of the updates"),
        ({"sampled": math.nan}, "shares of the updates"),
        ({"off": math.nan}, "shares of the updates"),
        ({"end": 1.1}, "would outlast the run"),
        ({"begin": 0.5, "end": 0.5}, "0 <= begin < end <= 1, got begin=0.5, end=0.5"),
        ({"begin": 0.6, "end": 0.5}, "0 <= begin < end"),
        ({"begin": -0.1}, "0 <= begin < end"),
        ({"begin": math.nan}, "0 <= begin < end"),
        ({"initial": 1.5}, "initial is a fraction of the final rate in [0, 1], got 1.5"),
        ({"initial": -0.5}, "initial is a fraction"),
        ({"initial": math.nan}, "initial is a fraction"),
        ({"shape": "exponential"}, "shape must be one of ['constant', 'cosine', 'cubic'"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Schedule(**settings)
    with pytest.raises(ValueError, match=re.escape(message)):
        Schedule.parse(settings)


def test_unknown_keys_and_shapes_are_refused():
    with pytest.raises(ValueError, match=r"schedule keys \['warmup'\]; known are \['begin'"):
        Schedule.parse({"shape": "linear", "warmup": 3})
    with pytest.raises(ValueError, match="shape must be one of"):
        Schedule.parse("quadratic")


def test_settings_are_keyword_only_and_frozen():
    schedule: Any = Schedule()
    with pytest.raises(AttributeError, match="cannot assign to field 'end'"):
        schedule.end = 0.5
    build: Any = Schedule
    with pytest.raises(TypeError, match="positional argument"):
        build("linear")


@given(schedules)
def test_a_schedule_equals_the_one_parsed_from_its_json_form(schedule):
    assert Schedule.parse(schedule.to_dict()) == schedule
    assert Schedule.parse(schedule) is schedule
    assert Schedule.parse(schedule.shape) == Schedule(shape=schedule.shape)
