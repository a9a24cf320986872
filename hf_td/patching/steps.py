"""Counts the steps of optimisers, to tell whether weights may have changed.

A tensor counts its changes in place, but fused optimisers do not tell it of theirs.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook

_taken = 0


def steps_taken() -> int:
    """How many steps the optimisers of this process have made since this was first asked."""
    _watch()
    return _taken


@cache
def _watch() -> None:
    register_optimizer_step_post_hook(_count)


def _count(*_: Any) -> None:
    global _taken
    _taken += 1
