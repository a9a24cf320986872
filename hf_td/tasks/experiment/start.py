"""What a method starts from: a model that knows its task, by a dense stage where it does not yet.

Weights can be taken from what a network has learned; while nothing is learned they cannot. So a
model whose head is new is fine-tuned plainly first.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, set_seed

from hf_td.files import whole_folder
from hf_td.pruning import sites_to_prune
from hf_td.tasks.experiment.arguments import START, Arguments
from hf_td.tasks.experiment.errors import UsageError, blaming_input
from hf_td.tasks.experiment.models import locate
from hf_td.tasks.experiment.output import last_checkpoint, tell
from hf_td.tasks.experiment.problem import Problem
from hf_td.tasks.experiment.trainers import make_trainer, save_fine_tuned, train
from hf_td.training import TargetedDropoutArguments


def starting_model(
    problem: Problem, arguments: Arguments, training: TargetedDropoutArguments
) -> tuple[PreTrainedModel, dict[str, Any] | None]:
    """The model that the method is to begin with, and what the Trainer says of the dense stage.

    Args:
        problem: the task.
        arguments: of the experiment.
        training: of one seed; the teacher that is called `start` is replaced by its folder.

    Raises:
        UsageError: the model cannot be loaded, has nothing that can be pruned as it is wanted, or
            is to teach a task that it does not know.
        FloatingPointError: the loss of the dense stage is not finite.
    """
    set_seed(training.seed)
    model = problem.make_model()
    with blaming_input():
        # Refuses what the model has not; activations are measured later.
        sites_to_prune(model, training.targeted_dropout(), importance="magnitude")
    stage = _dense_stage(arguments, training, model)
    if stage is None:
        if training.teacher == START:
            training.teacher = _already_fine_tuned(arguments, model)
        return model, None
    folder = Path(str(training.output_dir)) / "dense"
    summary = _fine_tune(problem, stage, model, folder)
    if training.teacher == START:
        training.teacher = str(folder)
    set_seed(training.seed)  # the method draws the same numbers with a dense stage and without
    return problem.load_model(folder), summary


def _dense_stage(
    arguments: Arguments, training: TargetedDropoutArguments, model: PreTrainedModel
) -> TargetedDropoutArguments | None:
    """The training arguments of the dense stage; None where there is none."""
    epochs = arguments.curve.dense_epochs
    if not arguments.trains or epochs == 0 or (epochs is None and not _has_new_head(model)):
        return None
    stage = copy.copy(training)
    if epochs is not None:
        stage.num_train_epochs, stage.max_steps = epochs, -1
    stage.learning_rate = arguments.curve.dense_learning_rate
    stage.output_dir = str(Path(str(training.output_dir)) / "dense-training")
    stage.teacher = None
    return stage


def _fine_tune(
    problem: Problem, stage: TargetedDropoutArguments, model: PreTrainedModel, folder: Path
) -> dict[str, Any]:
    """Fine-tune plainly, unless an earlier call has done it; the model is then in the folder."""
    if folder.is_dir():
        return {"model": folder.name}
    tell(stage, f"seed {stage.seed}: plain fine-tuning first, for the head is new")
    trainer = make_trainer(problem, "none", stage, model)
    summary = train(trainer, last_checkpoint(Path(str(stage.output_dir))))
    if stage.should_save:
        with whole_folder(folder) as temporary:
            save_fine_tuned(trainer, temporary)
    trainer.accelerator.wait_for_everyone()
    return {"model": folder.name, **summary}


def _already_fine_tuned(arguments: Arguments, model: PreTrainedModel) -> str:
    if _has_new_head(model):
        raise UsageError(
            f"--teacher {START} is the model that the method starts from, but the head of "
            f"{arguments.model.model_name_or_path} is new, so it cannot teach; give --dense_epochs"
        )
    return locate(arguments.model.model_name_or_path)


def _has_new_head(model: PreTrainedModel) -> bool:
    """Whether the weights are those of another class, one without the head of the task."""
    saved_as = model.config.architectures  # None of a model that is new as a whole
    return bool(saved_as) and type(model).__name__ not in saved_as
