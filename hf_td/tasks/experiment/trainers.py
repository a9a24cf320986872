"""Makes the Trainer of a method for a problem, runs it, and saves what it has trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from transformers import PreTrainedModel, Trainer

from hf_td.patching.patch import find_patch
from hf_td.ranking.activations import attach_activations, save_activations
from hf_td.ranking.learned import save_learned
from hf_td.tasks.experiment.errors import blaming_input
from hf_td.tasks.experiment.methods import METHODS
from hf_td.tasks.experiment.output import tell
from hf_td.tasks.experiment.problem import Problem
from hf_td.training import TargetedDropoutArguments, load_teacher


def make_trainer(
    problem: Problem,
    method: str,
    training: TargetedDropoutArguments,
    model: PreTrainedModel,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> Trainer:
    """The Trainer of a method.

    Args:
        problem: the task.
        method: key of `METHODS`.
        training: of one seed.
        model: to be trained.
        settings: of the method.

    Raises:
        UsageError: the teacher does not fit the model.
    """
    trainer = METHODS[method].make_trainer(
        problem.trainer_family,
        training.level,
        settings,
        model=model,
        args=training,
        train_dataset=problem.train_data,
        eval_dataset=problem.eval_data,
        processing_class=problem.processor,
        data_collator=problem.collator,
        compute_metrics=problem.compute_metrics,
        preprocess_logits_for_metrics=problem.reduce_logits,
    )
    if find_patch(model) is None:
        attach_activations(model, None)  # of what it learns now they would tell nothing
    if training.teacher is not None:
        with blaming_input():  # refuse a teacher that does not fit before anything is trained
            load_teacher(training.teacher, model_of(trainer), problem.processor)
    return trainer


def train(trainer: Trainer, checkpoint: str | None) -> dict[str, Any]:
    """Train, from a checkpoint if there is one; returns the number of updates and the loss."""
    if checkpoint is not None:
        tell(trainer.args, f"seed {trainer.args.seed}: continuing from {checkpoint}")
    done = trainer.train(resume_from_checkpoint=checkpoint)
    return {"updates": done.global_step, "loss": done.training_loss}


def save_fine_tuned(trainer: Trainer, folder: Path) -> None:
    """Save the model with all that pruning needs beside it, and the tokenizer."""
    if not trainer.args.should_save:
        return
    model, processor = model_of(trainer), trainer.processing_class
    model.save_pretrained(folder)
    save_activations(model, folder)
    save_learned(model, folder)
    assert processor is not None
    processor.save_pretrained(str(folder))


def model_of(trainer: Trainer) -> PreTrainedModel:
    """The model of a Trainer, which has one."""
    model = trainer.model
    assert isinstance(model, PreTrainedModel)
    return model
