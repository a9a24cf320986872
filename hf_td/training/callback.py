"""Anneals a patched model inside any Trainer."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_td.patching import anneal, find_patch


class TargetedDropoutCallback(TrainerCallback):
    """Draws the masks of each update and logs the rates; works with the stock `Trainer`.

    The progress is `global_step / max_steps`; the callback holds no state, so a resumed run draws
    what the uninterrupted one would have drawn. The log gets the rates of the last update
    (`targeting`, `drop_rate`, and `learning`, below 1 where nothing is dropped and only the lowest
    learn) and `dropped_share`, the fraction of the targeted weights that it dropped.
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
            patch.settle_activations()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let everything learn again, whatever the last update held."""
        patch = find_patch(kwargs["model"])
        if patch is not None:
            patch.let_go()

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
