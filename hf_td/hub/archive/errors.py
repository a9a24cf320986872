"""Refusals of an archive: ValueErrors that name the file, the tensor and the field."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def expect(holds: bool, field: str, expected: str, got: Any) -> None:
    """Raise a ValueError unless `holds`; `got` is shortened, since anybody may have written it."""
    if not holds:
        raise ValueError(f"{field} should be {expected}, got {reprlib.repr(got)}")


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Put `what` in front of the message of every ValueError raised inside."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
