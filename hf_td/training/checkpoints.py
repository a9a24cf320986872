"""Checkpoints that count only when they are whole, and the newest of them.

`Trainer` writes the files of a checkpoint one after another. A killed process can leave a part of
them, and a power cut can empty files that were complete. So a mark with the sizes of all files is
written last, when they are on the disk. Only then is an older checkpoint removed.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch.distributed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from hf_td.files import flush, flush_tree, naming, read_json_object, write_json

logger = logging.getLogger(__name__)

_MARK = "whole.json"


def mark(folder: Path) -> None:
    """Flush a checkpoint to the disk, and mark it as whole."""
    flush_tree(folder)
    write_json(folder / _MARK, _sizes(folder))
    flush(folder.parent)


def is_whole(folder: Path) -> bool:
    """Return True if a checkpoint has its mark, and all files have the sizes that the mark says."""
    marked = _read_object(folder / _MARK)
    return marked is not None and all(_size(folder / name) == size for name, size in marked.items())


def is_torn(folder: Path) -> bool:
    """Return True if a part of a checkpoint is missing.

    A checkpoint without a mark was written by another Trainer, which writes `trainer_state.json`
    last.
    """
    if (folder / _MARK).exists():
        return not is_whole(folder)
    return _read_object(folder / TRAINER_STATE_NAME) is None


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the oldest first."""
    prefix = f"{PREFIX_CHECKPOINT_DIR}-"
    found = {path: path.name.removeprefix(prefix) for path in folder.glob(f"{prefix}*")}
    return sorted((path for path in found if found[path].isdigit()), key=lambda p: int(found[p]))


def to_resume(wanted: str | bool | None, folder: str | Path) -> str | None:
    """Return the checkpoint that `train(resume_from_checkpoint=wanted)` continues.

    Args:
        wanted: a checkpoint; True for the newest in `folder` that is not torn; None or False for
            none.
        folder: `output_dir` of the Trainer.

    Raises:
        ValueError: the checkpoint is torn, or all in the folder are, or there is none.
    """
    if wanted is None or wanted is False:
        return None
    if wanted is not True:
        if is_torn(Path(wanted)):
            raise ValueError(
                f"{wanted} is no whole checkpoint: a file is missing or shorter than it was "
                "written. Give another one, or resume_from_checkpoint=True for the newest whole one"
            )
        return wanted
    every = checkpoints_in(Path(folder))
    torn = [path for path in every if is_torn(path)]
    whole = [path for path in every if path not in torn]
    if not whole:
        found = f"none of {len(torn)} is whole" if torn else "there is none"
        raise ValueError(
            f"resume_from_checkpoint=True continues the newest checkpoint in {folder}, and {found}."
            " Leave it out to train from the start"
        )
    for path in every[every.index(whole[-1]) + 1 :]:
        logger.warning("warning: %s is passed over, since it is not whole", path)
    return str(whole[-1])


class WholeCheckpointsMixin:
    """A mixin for Trainers that marks whole checkpoints, and resumes from nothing else."""

    args: Any
    state: Any

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Train as the parent does, from a whole checkpoint if one is wanted.

        Raises:
            ValueError: as for `to_resume`.
        """
        parent: Any = super()
        checkpoint = to_resume(resume_from_checkpoint, self.args.output_dir)
        return parent.train(checkpoint, *args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint and mark it, before older ones are removed.

        Raises:
            OSError: the disk is full, or fails. The message names the checkpoint.
        """
        parent: Any = super()
        run: str = parent._get_output_dir(trial=trial)
        folder = Path(run) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with naming(folder):
                parent._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()  # all processes have written their parts
        if self.args.should_save:
            mark(folder)
            best = self.state.best_model_checkpoint
            rotate_checkpoints(run, limit, best, use_mtime=True)


def _read_object(path: Path) -> dict[str, Any] | None:
    """Return a mapping from a JSON file; None if it is missing, torn or something else."""
    try:
        return read_json_object(path)
    except (OSError, ValueError):
        return None


def _size(file: Path) -> int | None:
    """Return the size of a file; None if it is missing, or another process removes it now."""
    try:
        return file.stat().st_size
    except OSError:
        return None


def _sizes(folder: Path) -> dict[str, int]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != _MARK]
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(files)}
