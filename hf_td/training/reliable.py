"""Trainers that stop at a loss that is not finite, and write checkpoints that resume whole."""

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
    """A mixin for Trainers that stops at a non-finite loss and writes resumable checkpoints."""

    args: Any
    model: Any
    state: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        parent: Any = super()
        parent.__init__(*args, **kwargs)
        # The filter would leave a non-finite loss out of the logged mean. Here it is an error.
        self.args.logging_nan_inf_filter = False

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run one forward and backward.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        parent: Any = super()
        loss = parent.training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            update = f"update {self.state.global_step + 1} of {self.state.max_steps}"
            raise FloatingPointError(
                f"the loss is {float(loss)} at {update}; nothing was saved after the last "
                "checkpoint. Lower the learning rate, lengthen the warm-up, clip gradients "
                "(max_grad_norm), or train in bf16 or float32 instead of fp16"
            )
        return loss

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        parent: Any = super()
        with _in_memory_names(self.model):
            parent._save(output_dir, state_dict)


@contextmanager
def _in_memory_names(model: Any) -> Iterator[None]:
    """Save checkpoints under the names that `Trainer` looks for when it resumes.

    Trainer saves under the names that a checkpoint had on disk, and loads them without conversion.
    Resuming would leave the renamed tensors of some families (ViT, Mixtral, ...) at their initial
    values: https://github.com/huggingface/transformers/issues/48805
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
    """`transformers.Trainer` for runs without targeted dropout; distils if there is a teacher."""
