"""What makes many short training runs quick."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="package")
def little_to_collect() -> Iterator[None]:
    """A Trainer collects garbage more than once in a run, over all that was ever imported."""
    gc.freeze()
    yield
    gc.unfreeze()
