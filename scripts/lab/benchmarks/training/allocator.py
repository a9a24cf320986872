"""Keeps the allocator out of comparisons.

glibc's malloc maps large tensors anew, and gives freed memory back to the system where it happens
to lie at the end of the heap; each page of it has to be fetched again. Whether that happens depends
on what was allocated in between: a step of the same model then takes longer, and of two models in
one process it can be the same one each time.
"""

from __future__ import annotations

import ctypes
import sys

# Of malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let malloc keep in this process what is freed; False where it cannot be told (no glibc)."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(
        [mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT), mallopt(_M_MMAP_MAX, 0)]
    )
