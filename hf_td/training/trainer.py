"""Trainers that patch a model, anneal it while they train it, and save what loads anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Seq2SeqTrainer, Trainer

from hf_td.patching import find_patch, patch_model
from hf_td.training.arguments import (
    TargetedDropoutArguments,
    TargetedDropoutFields,
    TargetedDropoutSeq2SeqArguments,
)
from hf_td.training.callback import TargetedDropoutCallback
from hf_td.training.optimizer import scale_untargeted


class TargetedDropoutMixin:
    """Makes a Trainer train with targeted dropout.

    A model that is not patched yet is patched with the settings of the arguments; one that is
    keeps its own.
    """

    args: Any
    model: Any
    optimizer: Any
    callback_handler: Any

    def __init__(self, model: Any = None, args: Any = None, *rest: Any, **kwargs: Any) -> None:
        settings = args if args is not None else self._default_arguments()
        if isinstance(model, nn.Module):
            _ensure_patched(model, settings)
        parent: Any = super()
        parent.__init__(model, settings, *rest, **kwargs)
        # First, so that progress bars and reports see the rates that it adds to the log.
        self.callback_handler.callbacks.insert(0, TargetedDropoutCallback())
        # A loss that is not finite is an error here, not something to leave out of the mean.
        self.args.logging_nan_inf_filter = False

    def _default_arguments(self) -> Any:
        return TargetedDropoutArguments()

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """The fresh model of `model_init`, patched."""
        parent: Any = super()
        return _ensure_patched(parent.call_model_init(trial), self.args)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """The optimiser of the parent, with `untargeted_lr_scale` applied to small parameters."""
        parent: Any = super()
        fresh = self.optimizer is None
        optimizer = parent.create_optimizer(*args, **kwargs)
        scale = getattr(self.args, "untargeted_lr_scale", 1.0)
        if fresh and scale != 1.0:
            scale_untargeted(optimizer, self.model, scale)
        return optimizer

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


def _ensure_patched(model: nn.Module, settings: Any) -> nn.Module:
    if find_patch(model) is None:
        known = isinstance(settings, TargetedDropoutFields)
        patch_model(model, settings.targeted_dropout() if known else None)
    return model


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
    saving = partial(model.save_pretrained, save_original_format=False)
    model.__dict__["save_pretrained"] = saving
    try:
        yield
    finally:
        del model.__dict__["save_pretrained"]


class TargetedDropoutTrainer(TargetedDropoutMixin, Trainer):
    """`transformers.Trainer` under targeted dropout; takes the same arguments.

    Give it `TargetedDropoutArguments`, or plain `TrainingArguments` for the default settings, or
    a model that was patched before.
    """


class TargetedDropoutSeq2SeqTrainer(TargetedDropoutMixin, Seq2SeqTrainer):
    """`transformers.Seq2SeqTrainer` under targeted dropout; takes the same arguments."""

    def _default_arguments(self) -> Any:
        return TargetedDropoutSeq2SeqArguments()
