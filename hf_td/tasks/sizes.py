"""Reads sizes of files as people write them."""

from __future__ import annotations

import re

from hf_td.tasks.errors import UsageError

_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3}
_UNITS |= {"ki": 1024, "mi": 1024**2, "gi": 1024**3}
_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*(|[kmg]i?)b?", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """Return a number of bytes such as `25MB`, `1.5 GiB` or `300000`.

    Raises:
        UsageError: it is no size.
    """
    found = _BYTES.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"a size of files is such as 25MB, 1.5GiB or 300000, got {text!r}")
    return int(float(found[1]) * _UNITS[found[2].lower()])
