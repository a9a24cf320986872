"""Loads the model that a method starts from, after a dense stage if its head is new.

Pruning needs a network that has learnt its task. A model with a new head has not, so it is
fine-tuned plainly first: this is the dense stage.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, set_seed

from hf_td.files import whole_folder
from hf_td.pruning import sites_to_prune
from hf_td.tasks.errors import UsageError, blaming_input
from hf_td.tasks.example_inputs import read_example_inputs
from hf_td.tasks.experiment.arguments import START, Arguments
from hf_td.tasks.experiment.checkpoints import TimedCheckpoints
from hf_td.tasks.experiment.choosing import choose_by_full
from hf_td.tasks.experiment.output import DENSE_TRAINING, last_checkpoint, print_once
from hf_td.tasks.experiment.stages import DENSE, TRAINING, watch
from hf_td.tasks.experiment.trainers import make_trainer, save_fine_tuned, train
from hf_td.tasks.models import locate
from hf_td.tasks.progress import Job
from hf_td.tasks.task import Task
from hf_td.training import TargetedDropoutArguments


def starting_model(
    task: Task, arguments: Arguments, training: TargetedDropoutArguments, job: Job
) -> tuple[PreTrainedModel, dict[str, Any] | None]:
    """Return the model that the method starts from, and the summary of the dense stage (or None).

    Args:
        task: the task.
        arguments: arguments of the experiment.
        training: training arguments of one seed; the teacher `start` is replaced by its folder.
        job: the job that the dense stage is part of.

    Raises:
        UsageError: the model cannot be loaded or cannot be pruned at this level, or it is the
            teacher and its head is new.
        FloatingPointError: the loss of the dense stage is not finite.
    """
    set_seed(training.seed)
    model = task.make_model()
    with blaming_input():
        # Raises if the model has nothing to prune; activations are measured later.
        sites_to_prune(
            model,
            training.targeted_dropout(),
            importance="magnitude",
            example_inputs=read_example_inputs(arguments.model.example_inputs, model),
        )
    stage = _dense_stage(task, arguments, training, model)
    if stage is None:
        if training.teacher == START:
            training.teacher = _already_fine_tuned(arguments, model)
        return model, None
    folder = Path(str(training.output_dir)) / "dense"
    summary = _fine_tune(task, arguments, stage, model, folder, job)
    if training.teacher == START:
        training.teacher = str(folder)
    set_seed(training.seed)  # the method's draws do not depend on the dense stage
    return task.load_model(folder), summary


def _dense_stage(
    task: Task, arguments: Arguments, training: TargetedDropoutArguments, model: PreTrainedModel
) -> TargetedDropoutArguments | None:
    """Return the training arguments of the dense stage; None if there is none."""
    epochs = arguments.curve.dense_epochs
    if not arguments.trains or epochs == 0 or (epochs is None and not _has_new_head(model)):
        return None
    stage = copy.copy(training)
    if epochs is not None:
        stage.num_train_epochs, stage.max_steps = epochs, -1
    stage.learning_rate = arguments.curve.dense_learning_rate
    stage.output_dir = str(Path(str(training.output_dir)) / DENSE_TRAINING)
    stage.teacher = None
    choose_by_full(task, stage)
    return stage


def _fine_tune(
    task: Task,
    arguments: Arguments,
    stage: TargetedDropoutArguments,
    model: PreTrainedModel,
    folder: Path,
    job: Job,
) -> dict[str, Any]:
    """Fine-tune plainly and save the model in `folder`; a no-op if the folder exists."""
    job.expect(DENSE, job.parts[TRAINING].units)
    if folder.is_dir():
        job.skip(DENSE, 1)
        return {"model": folder.name}
    print_once(stage, f"seed {stage.seed}: plain fine-tuning first, for the head is new")
    trainer = make_trainer(task, "none", stage, model)
    watch(trainer, job, DENSE, task)
    trainer.add_callback(TimedCheckpoints(arguments.minutes_between_checkpoints))
    summary = train(trainer, last_checkpoint(stage, Path(str(stage.output_dir))))
    if stage.should_save:
        with whole_folder(folder) as temporary:
            save_fine_tuned(trainer, temporary)
    trainer.accelerator.wait_for_everyone()
    return {"model": folder.name, **summary}


def _already_fine_tuned(arguments: Arguments, model: PreTrainedModel) -> str:
    """Return the folder or Hub id of the model; raise UsageError if its head is new."""
    if _has_new_head(model):
        raise UsageError(
            f"--teacher {START} is the model that the method starts from, but the head of "
            f"{arguments.model.model_name_or_path} is new, so it cannot teach. Give --dense_epochs."
        )
    return locate(arguments.model.model_name_or_path)


def _has_new_head(model: PreTrainedModel) -> bool:
    """Return True if the weights were saved by a class without the head of the task."""
    saved_as = model.config.architectures  # None for an untrained model
    return bool(saved_as) and type(model).__name__ not in saved_as
