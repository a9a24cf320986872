"""Measures wall-clock time."""

from __future__ import annotations

import time
from types import TracebackType

import torch


class Timer:
    """Context manager that measures the seconds of its block.

    Args:
        device: accelerator to synchronise with before each reading of the clock; None or the CPU
            for none.

    Attributes:
        seconds: duration of the block; 0 before its end.
    """

    def __init__(self, device: torch.device | str | None = None) -> None:
        self._device = torch.device(device or "cpu")
        self.seconds = 0.0

    def __enter__(self) -> Timer:
        """Start the clock."""
        self._start = self._now()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the clock, also after an error."""
        self.seconds = self._now() - self._start

    def _now(self) -> float:
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        return time.perf_counter()
