"""What makes many small tests quick."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="package")
def little_to_collect() -> Iterator[None]:
    """Nothing that was imported before is looked through again."""
    gc.freeze()
    yield
    gc.unfreeze()
