"""A fixture that makes many short training runs quick."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="package")
def little_to_collect() -> Iterator[None]:
    """Freeze imported objects: a Trainer collects garbage several times in each run."""
    gc.freeze()
    yield
    gc.unfreeze()
