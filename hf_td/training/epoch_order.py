"""The order of the rows of an epoch, drawn again as it was when a run resumes inside the epoch.

`train_sampling_strategy="group_by_length"` draws the order from torch's global random state at the
start of an epoch. A Trainer that resumes inside an epoch restores the state of the checkpoint after
it has skipped the rows of before, so it skips and trains rows of another order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Sampler
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

_FILE = "epoch_order_{}.safetensors"
_STATE = "state"


class RepeatableOrder(Sampler[int]):
    """A sampler that notes the random state of each order, and can draw one order from a given one.

    Args:
        sampler: draws an order from torch's global random state.

    Attributes:
        state: random state of the last order.
        given: state for the next order; None draws it from the global state.
    """

    def __init__(self, sampler: Sampler[int]) -> None:
        self._sampler = sampler
        self.state: Tensor | None = None
        self.given: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        assert isinstance(self._sampler, Sized)
        return len(self._sampler)

    def __iter__(self) -> Iterator[int]:
        """Draw an order; one that is drawn from a given state leaves the global state alone."""
        given, self.given = self.given, None
        if given is None:
            self.state = torch.get_rng_state()
            return iter(list(self._sampler))
        self.state = given
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(given)
            return iter(list(self._sampler))


class RepeatableOrderMixin:
    """A mixin for Trainers that resume inside an epoch whose order the global state drew."""

    args: Any
    _order: RepeatableOrder | None = None
    _given_order: Tensor | None = None

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        parent: Any = super()
        sampler = parent._get_train_sampler(*args, **kwargs)
        if sampler is None or self.args.train_sampling_strategy != "group_by_length":
            return sampler
        self._order = RepeatableOrder(sampler)
        self._order.given, self._given_order = self._given_order, None
        return self._order

    def _save_rng_state(self, output_dir: str) -> None:
        parent: Any = super()
        parent._save_rng_state(output_dir)
        if self._order is not None and self._order.state is not None:
            save_file({_STATE: self._order.state}, self._file(output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        parent: Any = super()
        parent._load_from_checkpoint(resume_from_checkpoint, model)
        file = self._file(resume_from_checkpoint)
        inside = _is_inside_an_epoch(resume_from_checkpoint) and not self.args.ignore_data_skip
        given = load_file(file)[_STATE] if inside and file.is_file() else None
        self._given_order = given  # for the data that are loaded afterwards
        if self._order is not None:  # FSDP loads a checkpoint after its data
            self._order.given = given

    def _file(self, checkpoint: str) -> Path:
        """Return the file of this process."""
        return Path(checkpoint) / _FILE.format(self.args.process_index)


def _is_inside_an_epoch(checkpoint: str) -> bool:
    state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
    return state.epoch is not None and not float(state.epoch).is_integer()
