"""Anneals a patched model inside any Trainer."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_td.patching.patch import anneal, find_patch
from hf_td.ranking.activations import FILE, save_activations

logger = logging.getLogger(__name__)


class AnnealingCallback(TrainerCallback):
    """Draws the masks of each update and logs the rates.

    The progress is `global_step / max_steps`, and the callback holds no state. The log gets the
    rates of the last update (`targeting` and `drop_rate`) and `dropped_share`, the fraction of the
    targeted weights that it dropped.
    """

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Anneal; called once for each update, before its first micro-batch."""
        anneal(kwargs["model"], min(1.0, state.global_step / state.max_steps), state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count the update's activations: all processes come here, before any of them saves."""
        patch = find_patch(kwargs["model"])
        if patch is not None:
            patch.update_averages()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add the rates to what is logged while training."""
        patch, logs = find_patch(kwargs["model"]), kwargs.get("logs")
        if patch is None or logs is None or "loss" not in logs:
            return
        added = {**patch.rates._asdict(), "dropped_share": patch.dropped_share()}
        logs.update(added)
        # The history holds a copy of the logs, made before the callbacks are asked.
        if state.log_history and state.log_history[-1].get("step") == state.global_step:
            state.log_history[-1].update(added)


class TargetedDropoutCallback(AnnealingCallback):
    """For the stock `Trainer`: an `AnnealingCallback` that keeps activations with checkpoints.

    With importance by activation a resumed run draws what the uninterrupted one would have drawn
    only from a checkpoint in the `output_dir` of the run; `TargetedDropoutTrainer` takes any. What
    `save_model` writes gets them by `hf_td.ranking.activations.save_activations(model, folder)`.
    """

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the activations beside the weights of a checkpoint."""
        if args.should_save and _checkpoint(args, state).is_dir():
            save_activations(kwargs["model"], _checkpoint(args, state))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go on with the activations of the checkpoint that is resumed."""
        patch = find_patch(kwargs["model"])
        if patch is None or not state.global_step:
            return
        if not patch.resume(_checkpoint(args, state)):
            logger.warning(
                "there is no %s in %s: its activations are not known, and masks can differ from "
                "those of the run that is resumed; resume it in its own output_dir, or by "
                "TargetedDropoutTrainer",
                FILE,
                _checkpoint(args, state),
            )


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
