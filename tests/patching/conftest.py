"""Makes many small tests fast."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="package")
def little_to_collect() -> Iterator[None]:
    """Exclude all earlier imports from garbage collection."""
    gc.freeze()
    yield
    gc.unfreeze()
