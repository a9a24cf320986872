"""Keep the memory allocator out of comparisons.

glibc's malloc maps large tensors anew, and returns freed memory to the system where it happens to
lie at the end of the heap. Each page of it has to be fetched again. When that happens depends on
earlier allocations: a step of the same model then takes longer, and of two models in one process it
can be the same one each time.
"""

from __future__ import annotations

import ctypes
import sys

# Of malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let malloc keep freed memory in this process, and return False where there is no glibc."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(
        [mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT), mallopt(_M_MMAP_MAX, 0)]
    )
