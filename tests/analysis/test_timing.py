"""The clock of a block."""

from __future__ import annotations

import time

import pytest

from hf_td.analysis.timing import Timer


def test_a_timer_has_the_seconds_of_its_block_even_after_an_error():
    with pytest.raises(ValueError, match="the block fails"), Timer("cpu") as timer:  # noqa: PT012
        assert timer.seconds == 0
        time.sleep(0.02)
        raise ValueError("the block fails")
    assert 0.02 <= timer.seconds < 10
