"""A count of the faults that were survived, printed at the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.trials import Tally

_KEY = "faults"


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """Count the faults of a test, which fails at its end if one was not survived."""
    counted = Tally()
    yield counted
    # In the report of the teardown, which pytest-xdist sends to the process that prints.
    request.node.user_properties.append((_KEY, [counted.survived, counted.tried]))
    assert counted.tried, "nothing was tried"
    assert not counted.failures, "\n".join(counted.failures)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many faults were survived."""
    reports = [one for every in terminalreporter.stats.values() for one in every]
    counts = [
        value
        for report in reports
        if getattr(report, "when", None) == "teardown"
        for key, value in report.user_properties
        if key == _KEY
    ]
    if counts:
        survived, tried = map(sum, zip(*counts, strict=True))
        terminalreporter.write_line(f"faults: survived {survived} of {tried}")
