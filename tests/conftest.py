"""Settings that all tests share."""

from __future__ import annotations

from hypothesis import settings

# The same examples on every run, and no time limit on slow machines.
settings.register_profile("steady", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("steady")
