"""Writes checkpoints as time passes, marks those that are whole, and finds the newest whole one.

A run that was killed goes on from its newest whole checkpoint. `Trainer` writes the files of a
checkpoint one after another, so a killed process can leave a part of them. The mark is written
last, with the sizes of all files.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_td.files import write_json

# Checkpoints that are kept at a time: the newest, and the one before it.
KEPT = 2

_MARK = "whole.json"
# A checkpoint may take this share of the time between two of them.
_MOST_OF_THE_TIME = 0.05


class TimedCheckpoints(TrainerCallback):
    """A callback that writes a checkpoint every so many minutes, and marks every whole checkpoint.

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
        """Mark the checkpoint, after all processes have written their parts."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if args.should_save and folder.is_dir():
            mark(folder)
        self._last = time.monotonic()
        self._took = self._last - self._asked


def _agreed(due: bool, args: TrainingArguments) -> bool:
    """Return what the first process says: their clocks differ, and all must save at once."""
    if args.world_size == 1:
        return due
    said = torch.tensor([due], dtype=torch.int32, device=args.device)
    torch.distributed.broadcast(said, 0)
    return bool(said.item())


def mark(folder: Path) -> None:
    """Mark a checkpoint as whole."""
    write_json(folder / _MARK, _sizes(folder))


def is_whole(folder: Path) -> bool:
    """Return True if a checkpoint has its mark, and all files have the sizes that the mark says."""
    try:
        marked = json.loads((folder / _MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    there = _sizes(folder)
    return all(there.get(name) == size for name, size in marked.items())


def _sizes(folder: Path) -> dict[str, int]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != _MARK]
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(files)}


def newest_whole(folder: Path) -> Path | None:
    """Return the newest whole checkpoint in a folder, or None."""
    return next((path for path in reversed(_checkpoints(folder)) if is_whole(path)), None)


def remove_torn(folder: Path) -> list[Path]:
    """Remove checkpoints that are not whole, and return their paths."""
    torn = [path for path in _checkpoints(folder) if not is_whole(path)]
    for path in torn:
        shutil.rmtree(path)
    return torn


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints in a folder."""
    for path in _checkpoints(folder):
        shutil.rmtree(path)


def _checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the oldest first."""
    found = {path: path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*")}
    return sorted((path for path in found if found[path].isdigit()), key=lambda p: int(found[p]))
