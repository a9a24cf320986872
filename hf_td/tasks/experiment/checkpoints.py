"""Writes checkpoints as time passes, and finds the newest whole one.

A run that was killed goes on from its newest whole checkpoint.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_td.training.checkpoints import checkpoints_in, is_whole

# Checkpoints that are kept at a time: the newest, and the one before it.
KEPT = 2

# A checkpoint may take this share of the time between two of them.
_MOST_OF_THE_TIME = 0.05


class TimedCheckpoints(TrainerCallback):
    """A callback that writes a checkpoint every so many minutes.

    Checkpoints that take long to write are written less often. A resumed run is bit-identical, so
    the time of a checkpoint changes no result.

    Args:
        minutes: time between two checkpoints; 0 writes none.
    """

    def __init__(self, minutes: float) -> None:
        self._seconds = 60 * minutes
        self._last = self._asked = time.monotonic()
        self._took = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self._last = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask for a checkpoint if it is time."""
        if self._seconds and state.global_step < state.max_steps:
            self._asked = time.monotonic()
            pause = max(self._seconds, self._took / _MOST_OF_THE_TIME)
            control.should_save |= _agreed(self._asked - self._last >= pause, args)
        # What was not logged by then is in no checkpoint: the mean loss would leave it out.
        control.should_log |= control.should_save

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log before a checkpoint of `--save_strategy epoch`."""
        control.should_log |= control.should_save

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note how long the checkpoint took."""
        self._last = time.monotonic()
        self._took = self._last - self._asked


def _agreed(due: bool, args: TrainingArguments) -> bool:
    """Return what the first process says: their clocks differ, and all must save at once."""
    if args.world_size == 1:
        return due
    said = torch.tensor([due], dtype=torch.int32, device=args.device)
    torch.distributed.broadcast(said, 0)
    return bool(said.item())


def newest_whole(folder: Path) -> Path | None:
    """Return the newest whole checkpoint in a folder, or None."""
    return next((path for path in reversed(checkpoints_in(folder)) if is_whole(path)), None)


def remove_torn(folder: Path) -> list[Path]:
    """Remove checkpoints that are not whole, and return their paths."""
    torn = [path for path in checkpoints_in(folder) if not is_whole(path)]
    for path in torn:
        shutil.rmtree(path)
    return torn


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints in a folder."""
    for path in checkpoints_in(folder):
        shutil.rmtree(path)
