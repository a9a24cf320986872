"""Finds the fixed phase of a run, and lets the learning rate start again where it begins."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from torch.optim.lr_scheduler import LambdaLR

from hf_td.config import TargetedDropoutConfig

Factor = Callable[[int], float]


def first_fixed_update(total: int, fixed_from: float) -> int:
    """Return the number of the first update of the fixed phase, from 0.

    Args:
        total: number of all updates.
        fixed_from: progress at which the phase begins, in (0, 1).
    """
    return bisect_left(range(total), fixed_from, key=lambda update: update / total)


def check_has_phase(config: TargetedDropoutConfig, updates: int) -> None:
    """Raise ValueError for a run that would end before its fixed phase begins."""
    if config.fixed_sparsity is not None and not config.is_fixed((updates - 1) / max(1, updates)):
        raise ValueError(
            f"the fixed phase begins at progress {config.fixed_from:g}, and none of {updates} "
            "updates begins there or later, so the model would not be pruned. Train longer, or "
            "lower fixed_from (--fixed_from)"
        )


def restart(scheduler: Any, first: int, total: int, scale: float) -> None:
    """Let a schedule end at an update, and start again there, in place.

    From there the learning rate falls linearly to zero. It is a function of the number of the
    update alone, as before.

    Args:
        scheduler: the schedule of the updates before, a `LambdaLR` that has made no step.
        first: number of the update at which it starts again.
        total: number of all updates.
        scale: learning rate at that update, as a multiple of the first one.

    Raises:
        ValueError: the schedule is no function of the number of the update.
    """
    if not isinstance(scheduler, LambdaLR):
        raise ValueError(
            "fixed_lr_scale lets a schedule start again that is a function of the number of the "
            f"update, and {type(scheduler).__name__} is none. Use another lr_scheduler_type, such "
            "as linear, or fixed_lr_scale=0"
        )
    scheduler.lr_lambdas = [_joined(f, first, total, scale) for f in scheduler.lr_lambdas]


def _joined(before: Factor, first: int, total: int, scale: float) -> Factor:
    def factor(update: int) -> float:
        if update < first:
            return before(update)
        return scale * max(0.0, (total - update) / max(1, total - first))

    return factor
