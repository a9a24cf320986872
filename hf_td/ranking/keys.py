"""Keys of draws: integers that are a function of what they are for."""

from __future__ import annotations

import hashlib


def draw_key(*parts: int) -> int:
    """Return an integer of 64 bits, signed, that is a function of some numbers."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
