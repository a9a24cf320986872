"""Trainers that patch a model and anneal it while they train it."""

from __future__ import annotations

import logging
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Seq2SeqTrainer, Trainer
from transformers.utils import CONFIG_NAME

from hf_td.config import CONFIG_KEY, TargetedDropoutConfig
from hf_td.files import read_json_object
from hf_td.patching.patch import Patch, find_patch, patch_model
from hf_td.ranking.activations import save_activations
from hf_td.training.arguments import (
    TargetedDropoutArguments,
    TargetedDropoutFields,
    TargetedDropoutSeq2SeqArguments,
)
from hf_td.training.averaging import AveragingMixin
from hf_td.training.callback import (
    AnnealingCallback,
    TargetedDropoutCallback,
    follow_best,
    resume,
)
from hf_td.training.distillation import DistillationMixin
from hf_td.training.optimizer import scale_untargeted
from hf_td.training.pruned_evaluation import PrunedEvaluationMixin
from hf_td.training.reliable import ReliableMixin
from hf_td.training.restart import first_fixed_update, restart

logger = logging.getLogger(__name__)


class TargetedDropoutMixin(AveragingMixin, PrunedEvaluationMixin, DistillationMixin, ReliableMixin):
    """A mixin for Trainers that trains with targeted dropout.

    A model that is not patched yet is patched with the settings of the arguments, in a search with
    those of the trial. A patched model keeps its own settings.
    """

    model: Any
    args: Any
    state: Any
    optimizer: Any
    lr_scheduler: Any
    is_deepspeed_enabled: bool
    callback_handler: Any
    model_init: Any

    def __init__(self, model: Any = None, args: Any = None, *rest: Any, **kwargs: Any) -> None:
        settings = args if args is not None else self._default_arguments()
        parent: Any = super()
        parent.__init__(model, settings, *rest, **kwargs)
        _ensure_patched(self.model, self.args)
        self._check_can_fix()
        # First in the list: progress bars and reports then see the rates that it adds to the logs.
        others = [
            c for c in self.callback_handler.callbacks if type(c) is not TargetedDropoutCallback
        ]
        self.callback_handler.callbacks = [AnnealingCallback(), *others]

    def _default_arguments(self) -> Any:
        return TargetedDropoutArguments()

    def _check_can_fix(self) -> None:
        if _patch_of(self.model).config.fixed_sparsity is None:
            return
        self._check_can_prune("fixed_sparsity")
        if self.is_deepspeed_enabled:
            raise ValueError(
                "fixed_sparsity clears the momentum of what it prunes, and DeepSpeed keeps that in "
                "an optimiser of its own. Leave it out, or use DistributedDataParallel"
            )
        name = getattr(self.args.optim, "value", self.args.optim)
        if self.optimizer is None and ("layerwise" in name or "lomo" in name):
            raise ValueError(
                f"fixed_sparsity keeps zeros in each step of the optimiser, and optim={name!r} has "
                "none: it updates inside the backward. Use another, such as adamw_torch"
            )
        if self.optimizer is None and ("8bit" in name or "4bit" in name):
            raise ValueError(
                f"fixed_sparsity clears the momentum of what it prunes, and optim={name!r} packs "
                "it, so no single entry can be cleared. Use another, such as adamw_torch"
            )

    def _hp_search_setup(self, trial: Any) -> None:
        """Set the arguments of a trial, and patch the new model of `model_init` with them.

        `train` calls this for every training, after `model_init`.
        """
        parent: Any = super()
        known = isinstance(self.args, TargetedDropoutFields)
        if known:
            self.args.drop_recipe()  # a trial can choose another
        parent._hp_search_setup(trial)
        if known:
            self.args.take_recipe()
        if self.model_init is not None:
            _ensure_patched(self.model, self.args)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model as the parent does, and its activations next to it.

        Under FSDP with sharded checkpoints the parent saves no model here, but a checkpoint has to
        have the activations.
        """
        if self.args.should_save:  # every process calls this; one per folder writes
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            save_activations(self.model, folder)  # before the parent, which can push the folder
        parent: Any = super()
        parent.save_model(output_dir, _internal_call)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        parent: Any = super()
        parent._load_from_checkpoint(resume_from_checkpoint, model)
        folder = Path(resume_from_checkpoint)
        _warn_of_other_settings(_patch_of(self.model).config, folder)
        resume(self.model, folder)

    def _load_best_model(self) -> None:
        parent: Any = super()
        parent._load_best_model()
        if find_patch(self.model) is not None:
            follow_best(self.model, self.state)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Create the scheduler of the parent, which starts again as `fixed_lr_scale` says."""
        parent: Any = super()
        config, scale = _patch_of(self.model).config, getattr(self.args, "fixed_lr_scale", None)
        if not scale or config.fixed_sparsity is None:
            return parent.create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is not None:
            raise ValueError(
                "fixed_lr_scale changes the schedule that the Trainer makes, and it was given one. "
                "Leave it out of optimizers=(optimizer, None), or set fixed_lr_scale=0"
            )
        first = first_fixed_update(num_training_steps, config.fixed_from)
        scheduler = parent.create_scheduler(first, optimizer)
        restart(scheduler, first, num_training_steps, scale)
        return scheduler

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Create the optimiser of the parent, and apply `untargeted_lr_scale`."""
        parent: Any = super()
        fresh = self.optimizer is None
        optimizer = parent.create_optimizer(*args, **kwargs)
        scale = getattr(self.args, "untargeted_lr_scale", 1.0)
        if fresh and scale != 1.0:
            scale_untargeted(optimizer, self.model, scale)
        return optimizer


def _warn_of_other_settings(config: TargetedDropoutConfig, checkpoint: Path) -> None:
    """Warn where a checkpoint was trained with other settings of targeted dropout."""
    known = checkpoint / CONFIG_NAME
    recorded = read_json_object(known).get(CONFIG_KEY) if known.is_file() else None
    if recorded is None:
        return
    then = TargetedDropoutConfig.from_dict(recorded)
    other = [
        f"{f.name} was {getattr(then, f.name)!r} and is {getattr(config, f.name)!r}"
        for f in fields(config)
        if getattr(then, f.name) != getattr(config, f.name)
    ]
    if other:
        logger.warning(
            "%s was trained with other settings: %s. The run goes on with those of its arguments, "
            "so it is not the one that was interrupted",
            checkpoint,
            "; ".join(other),
        )


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
        _warn_if_ignored(patch.config, config)
    return model


def _warn_if_ignored(own: TargetedDropoutConfig, given: TargetedDropoutConfig) -> None:
    """Warn if the given settings differ from the model's own, which are used."""
    given = replace(given, seed=own.seed)
    if given not in (own, TargetedDropoutConfig(seed=own.seed)):
        logger.warning(
            "The model is already patched: the dropout settings in the arguments are ignored. It "
            "keeps %s. Call unpatch_model(model) first to change them.",
            own,
        )


class TargetedDropoutTrainer(TargetedDropoutMixin, Trainer):
    """`transformers.Trainer` with targeted dropout; takes the same arguments.

    Pass `TargetedDropoutArguments`, or plain `TrainingArguments` for the default settings, or a
    model that is patched already.
    """


class TargetedDropoutSeq2SeqTrainer(TargetedDropoutMixin, Seq2SeqTrainer):
    """`transformers.Seq2SeqTrainer` with targeted dropout; takes the same arguments."""

    def _default_arguments(self) -> Any:
        return TargetedDropoutSeq2SeqArguments()
