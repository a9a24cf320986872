"""Makes the Trainer of a method, runs it, and saves the fine-tuned model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from transformers import PreTrainedModel, Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput

from hf_td.baselines import attach_baseline
from hf_td.files import flush_tree
from hf_td.patching.patch import find_patch, patch_model
from hf_td.ranking.activations import attach_activations, save_activations
from hf_td.ranking.learned import save_learned
from hf_td.tasks.errors import blaming_input
from hf_td.tasks.example_inputs import read_example_inputs
from hf_td.tasks.experiment.arguments import Arguments
from hf_td.tasks.experiment.methods import METHODS
from hf_td.tasks.experiment.one_answer import OneAnswerWatch
from hf_td.tasks.experiment.output import print_once
from hf_td.tasks.task import Task
from hf_td.tasks.taught import taught_rows
from hf_td.training import TargetedDropoutArguments, load_teacher
from hf_td.training.augmentation import VariantDataset, VariantEpochs

# What is recorded of a logged update, beside its step.
LOGGED = ("step", "loss", "learning_rate", "targeting", "drop_rate", "dropped_share")


def prepare(
    model: PreTrainedModel, arguments: Arguments, training: TargetedDropoutArguments, examples: int
) -> None:
    """Patch a model, or attach its baseline, by the user's example inputs; a no-op without any.

    The Trainers do the same on inputs that are made.
    """
    inputs = read_example_inputs(arguments.model.example_inputs, model)
    if inputs is None:
        return
    method, config = METHODS[arguments.curve.method], training.targeted_dropout()
    baseline = method.make_baseline(training.level, arguments.method_settings)
    if method.targets:
        patch_model(model, config, example_inputs=inputs)
    elif baseline is not None and arguments.trains:
        attach_baseline(model, baseline, config, examples=examples, example_inputs=inputs)


def make_trainer(
    task: Task,
    method: str,
    training: TargetedDropoutArguments,
    model: PreTrainedModel,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> Trainer:
    """Make the Trainer of a method.

    Args:
        task: the task.
        method: key of `METHODS`.
        training: training arguments of one seed.
        model: model to train.
        settings: settings of the method.

    Raises:
        UsageError: the teacher does not fit the model.
    """
    with blaming_input():
        rows = taught_rows(task, training, model)
    trainer = METHODS[method].make_trainer(
        task.trainer_family,
        training.level,
        settings,
        model=model,
        args=training,
        train_dataset=rows,
        eval_dataset=task.eval_data,
        processing_class=task.processor,
        data_collator=task.collator,
        compute_metrics=OneAnswerWatch(task.compute_metrics),
        preprocess_logits_for_metrics=task.reduce_logits,
    )
    if isinstance(rows, VariantDataset):
        trainer.add_callback(VariantEpochs(rows))
    if find_patch(model) is None:
        attach_activations(model, None)  # training makes them stale
    if training.teacher is not None:
        with blaming_input():  # before training, not in its first update
            load_teacher(training.teacher, model_of(trainer), task.processor)
    return trainer


def train(trainer: Trainer, checkpoint: str | None) -> dict[str, Any]:
    """Train, from a checkpoint if one is given; return the number of updates and the loss."""
    if checkpoint is not None:
        print_once(trainer.args, f"seed {trainer.args.seed}: continuing from {checkpoint}")
    before = None if checkpoint is None else _state_of(checkpoint)
    done = trainer.train(resume_from_checkpoint=checkpoint)
    loss = done.training_loss if before is None else _mean_loss(before, done)
    return {"updates": done.global_step, "loss": loss}


def _state_of(checkpoint: str) -> TrainerState:
    return TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))


def _mean_loss(before: TrainerState, done: TrainOutput) -> float:
    """Return the mean loss of all updates; a resumed `Trainer` knows that of the later ones."""
    logged = [(entry["step"], entry["loss"]) for entry in before.log_history if "loss" in entry]
    starts = [0, *(step for step, _ in logged)]
    total = sum(loss * (step - start) for (step, loss), start in zip(logged, starts, strict=False))
    later = done.global_step - before.global_step
    return (total + done.training_loss * later) / max(done.global_step, 1)


def history_of(trainer: Trainer) -> list[dict[str, float]]:
    """Return the logged updates of a training: the step, and the loss and the rates of each."""
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    return [{name: entry[name] for name in LOGGED if name in entry} for entry in logged]


def save_fine_tuned(trainer: Trainer, folder: Path) -> None:
    """Save the model, its activations and learned scores, and the tokenizer."""
    if not trainer.args.should_save:
        return
    model, processor = model_of(trainer), trainer.processing_class
    model.save_pretrained(folder)
    save_activations(model, folder)
    save_learned(model, folder)
    assert processor is not None
    processor.save_pretrained(str(folder))
    flush_tree(folder)  # the checkpoints are removed once the seed counts as finished


def model_of(trainer: Trainer) -> PreTrainedModel:
    """Return the model of a Trainer, typed."""
    model = trainer.model
    assert isinstance(model, PreTrainedModel)
    return model
