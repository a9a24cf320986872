"""Trainers that patch a model and anneal it while they train it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from torch import nn
from transformers import Seq2SeqTrainer, Trainer

from hf_td.config import TargetedDropoutConfig
from hf_td.patching.patch import Patch, find_patch, patch_model
from hf_td.ranking.activations import save_activations
from hf_td.training.arguments import (
    TargetedDropoutArguments,
    TargetedDropoutFields,
    TargetedDropoutSeq2SeqArguments,
)
from hf_td.training.callback import AnnealingCallback
from hf_td.training.distillation import DistillationMixin
from hf_td.training.optimizer import scale_untargeted
from hf_td.training.reliable import ReliableMixin

logger = logging.getLogger(__name__)


class TargetedDropoutMixin(DistillationMixin, ReliableMixin):
    """Makes a Trainer train with targeted dropout.

    A model that is not patched yet is patched with the settings of the arguments; one that is
    keeps its own.
    """

    model: Any
    args: Any
    state: Any
    optimizer: Any
    callback_handler: Any

    def __init__(self, model: Any = None, args: Any = None, *rest: Any, **kwargs: Any) -> None:
        settings = args if args is not None else self._default_arguments()
        if isinstance(model, nn.Module):
            _ensure_patched(model, settings)
        parent: Any = super()
        parent.__init__(model, settings, *rest, **kwargs)
        # First, so that progress bars and reports see the rates that it adds to the log.
        self.callback_handler.callbacks.insert(0, AnnealingCallback())

    def _default_arguments(self) -> Any:
        return TargetedDropoutArguments()

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """The fresh model of `model_init`, patched."""
        parent: Any = super()
        return _ensure_patched(parent.call_model_init(trial), self.args)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:  # every process comes here, and one of each folder writes
            save_activations(self.model, output_dir or self.args.output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        parent: Any = super()
        parent._load_from_checkpoint(resume_from_checkpoint, model)
        _patch_of(self.model).resume(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        parent: Any = super()
        parent._load_best_model()
        patch = find_patch(self.model)
        if patch is not None:
            patch.resume(self.state.best_model_checkpoint)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """The optimiser of the parent, with `untargeted_lr_scale` applied to small parameters."""
        parent: Any = super()
        fresh = self.optimizer is None
        optimizer = parent.create_optimizer(*args, **kwargs)
        scale = getattr(self.args, "untargeted_lr_scale", 1.0)
        if fresh and scale != 1.0:
            scale_untargeted(optimizer, self.model, scale)
        return optimizer


def _patch_of(model: nn.Module) -> Patch:
    patch = find_patch(model)
    assert patch is not None
    return patch


def _ensure_patched(model: nn.Module, settings: Any) -> nn.Module:
    known = isinstance(settings, TargetedDropoutFields)
    config = settings.targeted_dropout() if known else None
    patch = find_patch(model)
    if patch is None:
        patch_model(model, config)
    elif config is not None:
        _tell_what_counts(patch.config, config)
    return model


def _tell_what_counts(own: TargetedDropoutConfig, given: TargetedDropoutConfig) -> None:
    """Warn of settings that were given in vain, to a model that has its own."""
    given = replace(given, seed=own.seed)
    if given not in (own, TargetedDropoutConfig(seed=own.seed)):
        logger.warning(
            "the model is patched already, with other settings than the arguments have, which do "
            "not count: it is trained with %s; call unpatch_model(model) first to change them",
            own,
        )


class TargetedDropoutTrainer(TargetedDropoutMixin, Trainer):
    """`transformers.Trainer` under targeted dropout; takes the same arguments.

    Give it `TargetedDropoutArguments`, or plain `TrainingArguments` for the default settings, or
    a model that was patched before.
    """


class TargetedDropoutSeq2SeqTrainer(TargetedDropoutMixin, Seq2SeqTrainer):
    """`transformers.Seq2SeqTrainer` under targeted dropout; takes the same arguments."""

    def _default_arguments(self) -> Any:
        return TargetedDropoutSeq2SeqArguments()
