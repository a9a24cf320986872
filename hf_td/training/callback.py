"""Callbacks that anneal a patched model inside any Trainer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, IntervalStrategy
from transformers.utils import CONFIG_NAME

from hf_td.modules.compact_layout import pass_as_saved, record_layout
from hf_td.patching.patch import Patch, anneal, find_patch
from hf_td.pruning.fixed import check_can_fix, fix_pattern
from hf_td.ranking.activations import FILE, save_activations
from hf_td.training.pruned_evaluation import warn_if_above_targeting, warn_if_chosen_unpruned
from hf_td.training.restart import check_has_phase

logger = logging.getLogger(__name__)

# Arguments that `TargetedDropoutTrainer` alone acts on, with the values that ask for nothing.
_FOR_THE_TRAINER: dict[str, tuple[Any, ...]] = {
    "teacher": (None,),
    "eval_sparsity": (None,),
    "untargeted_lr_scale": (None, 1),
    "fixed_lr_scale": (None, 0),
    "average": (None, 0),
}


_ROUNDING = 1e-6  # of a number of epochs


class AnnealingCallback(TrainerCallback):
    """A callback that anneals before each update and logs the rates.

    The progress is `global_step / max_steps`, so a resumed run needs no state of it. In the first
    update of the fixed phase it calls `fix_pattern`. It logs the rates of the last update,
    `targeting` and `drop_rate`, and `dropped_share`, the fraction of the targeted weights that the
    update dropped.

    Args:
        model: the patched model, or a wrapper around it. None for the model that the Trainer hands
            its callbacks. Give it where that is no module, as from SetFit's Trainer.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self.model = model
        self._dropped_share: float | None = None

    def model_of(self, given: Mapping[str, Any]) -> nn.Module:
        """Return the model to anneal, from the keyword arguments of an event.

        Raises:
            TypeError: the callback has no model of its own, and the Trainer hands it no module.
        """
        if self.model is not None:
            return self.model
        model = given.get("model")
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"the Trainer hands its callbacks a {type(model).__name__} as the model, where a "
                "torch.nn.Module was expected. Give the callback the patched model: "
                f"{type(self).__name__}(model)"
            )
        return model

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Warn if the metric of the full weights chooses, or a sparsity is not trained for.

        Raises:
            ValueError: the settings have a fixed phase, and the model cannot be pruned in it, or
                it has no update.
        """
        model = self.model_of(kwargs)
        patch = find_patch(model)
        if patch is not None:
            warn_if_chosen_unpruned(args, patch.config)
            warn_if_above_targeting(args, patch.config)
            patch.release()  # of a training that was broken off
            check_can_fix(model)
            check_has_phase(patch.config, state.max_steps)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Anneal; called once for each update, before its first micro-batch."""
        progress = min(1.0, state.global_step / state.max_steps)
        model = self.model_of(kwargs)
        patch = find_patch(model)
        if patch is not None and patch.config.is_fixed(progress) and not patch.is_fixed:
            fix_pattern(model, optimizer=kwargs.get("optimizer"))
        anneal(model, progress, state.global_step)
        # Before the update: it changes the weights and activations that its masks were made of.
        self._dropped_share = None
        if patch is not None and _is_logged(args, state):
            self._dropped_share = patch.dropped_share()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add the update's activations to the averages; every process calls this before saving."""
        patch = find_patch(self.model_of(kwargs))
        if patch is not None:
            patch.update_averages()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End the fixed phase: what is trained next may fill the zeros."""
        patch = find_patch(self.model_of(kwargs))
        if patch is not None:
            patch.release()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add the rates to the training logs."""
        patch, logs = find_patch(self.model_of(kwargs)), kwargs.get("logs")
        # Each update has its learning rate; its loss can have another name, as in SetFit.
        if patch is None or logs is None or "learning_rate" not in logs:
            return
        added = patch.rates._asdict()
        if self._dropped_share is not None:
            added["dropped_share"] = self._dropped_share
        add_to_logs(state, logs, added)


def _is_logged(args: TrainingArguments, state: TrainerState) -> bool:
    """Return True if the update that begins will be logged, as far as that can be foreseen."""
    done, update = state.global_step, state.global_step + 1
    if args.logging_strategy == IntervalStrategy.STEPS:
        return update % state.logging_steps == 0 or (update == 1 and args.logging_first_step)
    if args.logging_strategy == IntervalStrategy.NO:
        return False
    epoch = state.epoch or 0.0
    after = epoch * update / done if done else 1.0  # by the mean length of the updates so far
    return update == state.max_steps or int(after + _ROUNDING) > int(epoch + _ROUNDING)


def add_to_logs(state: TrainerState, logs: dict[str, Any], values: Mapping[str, float]) -> None:
    """Add values to the logs of an update, and to their copy in the history of the Trainer."""
    logs.update(values)
    # The history copied the logs before it called the callbacks.
    if state.log_history and state.log_history[-1].get("step") == state.global_step:
        state.log_history[-1].update(values)


class TargetedDropoutCallback(AnnealingCallback):
    """A callback for the stock `Trainer`: anneals, and saves activations with checkpoints.

    With importance by activation a resumed run is bit-identical only if the checkpoint lies in the
    `output_dir` of the run; `TargetedDropoutTrainer` takes any checkpoint. To save activations with
    the output of `save_model`, call `hf_td.ranking.activations.save_activations(model, folder)`.

    The stock `Trainer` multiplies the gradient of many heads, `BertForSequenceClassification` among
    them, by the number of micro-batches and of processes
    (https://github.com/huggingface/transformers/issues/47688). Set
    `trainer.model_accepts_loss_kwargs = False` for these. `TargetedDropoutTrainer` measures it.
    """

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save the activations next to the weights of a checkpoint."""
        if args.should_save and _checkpoint(args, state).is_dir():
            save_activations(self.model_of(kwargs), _checkpoint(args, state))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Warn as `AnnealingCallback`, and load the activations of a resumed checkpoint.

        Warn of arguments that `TargetedDropoutTrainer` alone acts on.
        """
        super().on_train_begin(args, state, control, **kwargs)
        _warn_of_unused(args)
        model = self.model_of(kwargs)
        if find_patch(model) is not None and state.global_step:
            resume(model, _checkpoint(args, state))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Load what the best checkpoint has beside its weights, if these were loaded."""
        super().on_train_end(args, state, control, **kwargs)
        model = self.model_of(kwargs)
        if find_patch(model) is not None and args.load_best_model_at_end:
            if state.best_model_checkpoint:
                follow_best(model, state)


def _warn_of_unused(args: TrainingArguments) -> None:
    given = {name: getattr(args, name, None) for name in _FOR_THE_TRAINER}
    unused = [f"{n}={value!r}" for n, value in given.items() if value not in _FOR_THE_TRAINER[n]]
    if unused:
        logger.warning(
            "a Trainer with TargetedDropoutCallback takes no notice of %s. Use "
            "TargetedDropoutTrainer, which needs no callback",
            ", ".join(unused),
        )


def follow(model: nn.Module, checkpoint: str | Path) -> bool:
    """Load what a checkpoint of a patched model has beside its weights, which were loaded.

    That is its activations, and which layers and experts it computes with.

    Returns:
        False if it should have activations and has none.
    """
    patch = find_patch(model)
    assert patch is not None
    if patch.config.fixed_sparsity is not None:  # else nothing is removed in training
        for site in patch.sites:
            site.mark_removed()
        pass_as_saved(model, checkpoint)
        record_layout(model)
    return patch.resume(checkpoint)


def follow_best(model: nn.Module, state: TrainerState) -> None:
    """Follow the best checkpoint, whose weights were loaded at the end of training.

    Warn if it has adapters alone, and the model below them was pruned after it.
    """
    patch = find_patch(model)
    assert patch is not None
    assert state.best_model_checkpoint is not None
    checkpoint = Path(state.best_model_checkpoint)
    whole = (checkpoint / CONFIG_NAME).is_file()  # adapters are saved without the model's config
    if patch.config.fixed_sparsity is not None and not whole and not _in_phase(patch, checkpoint):
        logger.warning(
            "the best checkpoint, %s, has adapters of an update before the fixed phase, and the "
            "model below them was pruned in it: together they are not the network that was "
            "evaluated. Evaluate again, or load the adapters of the last checkpoint",
            checkpoint,
        )
    follow(model, checkpoint)


def _in_phase(patch: Patch, checkpoint: Path) -> bool:
    """Return True if the last update before a checkpoint was in the fixed phase."""
    saved = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    return patch.config.is_fixed((saved.global_step - 1) / saved.max_steps)


def resume(model: nn.Module, checkpoint: Path) -> None:
    """Follow a checkpoint; warn if it should have activations and has none."""
    if not follow(model, checkpoint):
        logger.warning(
            "there is no %s in %s. Without the activations of the checkpoint masks can differ from "
            "those of the uninterrupted run. Resume from the folder that the run wrote; a stock "
            "Trainer with a callback finds it in its output_dir alone",
            FILE,
            checkpoint,
        )


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
