"""The time that is left comes from measured speeds, and from rows where nothing was measured."""

from __future__ import annotations

from io import StringIO

import pytest

from hf_td.tasks.progress import Job, Part, say


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def job(clock) -> Job:
    """Two trainings of 300 rows, four measurements of 50 rows, two exports."""
    parts = {
        "training": Part(units=2, rows=300),
        "measuring": Part(units=4, rows=50),
        "exporting": Part(units=2, guess=20),
    }
    return Job(parts, clock=clock)


def test_what_was_not_measured_is_forecast_by_its_rows(job, clock):
    assert job.left() is None
    clock.now = 6.0
    job.advance("training", 0.1)  # 30 rows: 0.2 seconds a row
    assert job.left() == pytest.approx(1.9 * 60 + 4 * 10 + 2 * 20)


def test_each_part_is_forecast_by_its_own_speed_once_it_began(job, clock):
    for kind, units, seconds in [("training", 1, 60), ("measuring", 1, 30), ("exporting", 1, 5)]:
        clock.now += seconds
        job.advance(kind, units)
    assert job.left() == pytest.approx(60 + 3 * 30 + 5)


def test_skipped_work_is_not_taken_for_fast_work(job, clock):
    job.skip("training", 0.5)
    clock.now = 6.0
    job.advance("training", 0.1)
    assert job.left() == pytest.approx(1.4 * 60 + 4 * 10 + 2 * 20)


def test_work_that_turns_out_to_be_needed_is_added_once(job, clock):
    job.parts["dense"] = Part(units=0, rows=300)
    job.expect("dense", 2)
    job.expect("dense", 2)
    assert job.parts["dense"].units == 2
    job.advance("dense", 2)
    job.expect("dense", 1)
    assert job.parts["dense"].units == 0


def test_a_job_of_exports_alone_is_forecast_by_the_guess(clock):
    assert Job({"exporting": Part(units=3, guess=20)}, clock=clock).left() == 60


def test_a_terminal_shows_one_line_and_no_other_stream_does(monkeypatch, clock, capsys):
    for terminal in (True, False):
        stream = StringIO()
        stream.isatty = lambda terminal=terminal: terminal  # pyright: ignore
        monkeypatch.setattr("sys.stderr", stream)
        job = Job({"measuring": Part(units=4, rows=1)}, clock=clock)
        job.begin("measuring", "seed 1 of 1")
        clock.now += 60
        job.advance("measuring", 1)
        say("a result")
        job.close()
        line = stream.getvalue()
        assert (
            "25%|" in line and "seed 1 of 1, measuring, 01:00 gone, 03:00 left" in line
        ) == terminal
        assert bool(line) == terminal
        assert capsys.readouterr().out == "a result\n"
