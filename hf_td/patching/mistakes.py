"""Warns of mistakes in training that raise no error, and in which targeted dropout does not work.

Evaluations, generation, probes of gradients and sweeps over sparsities are no mistakes.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import nn

logger = logging.getLogger(__name__)

# Weights can also change by loading, averaging or swapping, once or twice in a row.
PATIENCE = 3


@dataclass
class EvalModeWatch:
    """A watch for updates of the weights in eval mode, in which nothing is dropped.

    An update in eval mode is a change of the weights between two forwards in eval mode, both with
    gradients, without a forward in training mode since. In an annealed training it also has an
    `anneal` in between.

    Attributes:
        in_eval: the number of successive updates in eval mode.
        last: the number of updates and the version of the weights in the last forward in eval
            mode; None after a forward in training mode.
        warned: True after the warning.
    """

    in_eval: int = 0
    last: tuple[int, int] | None = None
    warned: bool = False

    def see_training(self) -> None:
        """Start again: a forward in training mode drops."""
        self.in_eval = 0
        self.last = None

    def see_evaluation(self, model: nn.Module, updates: int, *, annealed: bool) -> None:
        """Count an update in eval mode if the weights changed, and warn once of `PATIENCE`.

        Args:
            model: the patched model, in a forward in eval mode with gradients.
            updates: the number of updates so far.
            annealed: True if `anneal` counts them, False if forwards in training mode do.
        """
        if self.warned:
            return
        before, self.last = self.last, (updates, _version(model))
        if before is None or before[1] == self.last[1] or (annealed and before[0] == updates):
            return
        self.in_eval += 1
        if self.in_eval == PATIENCE:
            self.warned = True
            logger.warning(
                "the weights of the patched %s are trained in eval mode, in which nothing is "
                "dropped. A model that was just loaded is in eval mode, and so is one after an "
                "evaluation. Call model.train() before each update",
                type(model).__name__,
            )


def _version(model: nn.Module) -> int:
    """Return the number of changes of the first trainable parameter.

    As a rule this is an embedding, which optimisers change and pruning does not.
    """
    trainable = (parameter for parameter in model.parameters() if parameter.requires_grad)
    first = next(trainable, None)
    # A tensor that was made under `torch.inference_mode` has no version, and is not trained.
    return 0 if first is None or first.is_inference() else first._version


def warn_if_in_trainer(model: nn.Module) -> None:
    """Warn if a `transformers.Trainer` runs this forward, which nothing has annealed."""
    trainer = _running_trainer()
    if trainer is not None:
        logger.warning(
            "%s trains a patched %s that nothing anneals: every forward counts as an update at the "
            "final rates, from the first one. Give the Trainer "
            "callbacks=[TargetedDropoutCallback()], or use TargetedDropoutTrainer",
            type(trainer).__name__,
            type(model).__name__,
        )


def _running_trainer() -> Any:
    """Return the Trainer whose method is on the stack, or None."""
    known = sys.modules.get("transformers.trainer")  # not imported here: that takes a second
    if known is None:
        return None
    owners = (frame.f_locals.get("self") for frame in _frames())
    return next((owner for owner in owners if isinstance(owner, known.Trainer)), None)


def _frames() -> Iterator[FrameType]:
    """Yield the frames of the stack, the innermost first."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def gradients_are_recorded() -> bool:
    """Return True outside `torch.no_grad` and the compiler, which must not trace the watch."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()
