"""What every Trainer of this project does better than the stock one: errors, and checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, Trainer

from hf_td.training.distillation import DistillationMixin


class ReliableMixin:
    """Stops at a loss that is not finite, and writes checkpoints that resume whole."""

    args: Any
    model: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        parent: Any = super()
        parent.__init__(*args, **kwargs)
        # A loss that is not finite is an error here, not something to leave out of the mean.
        self.args.logging_nan_inf_filter = False

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One forward and backward.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        parent: Any = super()
        loss = parent.training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            raise FloatingPointError(self._not_finite(float(loss)))
        return loss

    def _not_finite(self, loss: float) -> str:
        state: Any = getattr(self, "state", None)
        return (
            f"the loss is {loss} at update {state.global_step + 1} of {state.max_steps}; nothing "
            "was saved after the last checkpoint. Lower the learning rate, lengthen the warm-up, "
            "clip gradients (max_grad_norm), or train in bf16 or float32 instead of fp16"
        )

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        parent: Any = super()
        with _in_memory_names(self.model):
            parent._save(output_dir, state_dict)


@contextmanager
def _in_memory_names(model: Any) -> Iterator[None]:
    """Save checkpoints under the names that `Trainer` looks for when it resumes.

    https://github.com/huggingface/transformers/issues/48805: Trainer saves under the names that a
    checkpoint had on disk and loads them without conversion, so resuming leaves the renamed
    tensors of some families (ViT, Mixtral, ...) at their initial values.
    """
    if not isinstance(model, PreTrainedModel):
        yield
        return
    before = {k: v for k, v in model.__dict__.items() if k == "save_pretrained"}
    saving = partial(model.save_pretrained, save_original_format=False)
    model.__dict__["save_pretrained"] = saving
    try:
        yield
    finally:
        del model.__dict__["save_pretrained"]
        model.__dict__.update(before)


class ReliableTrainer(DistillationMixin, ReliableMixin, Trainer):
    """`transformers.Trainer` for runs without targeted dropout; distils where it is told to."""
