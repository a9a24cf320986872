"""One run: fine-tune with one seed, save, and measure at every sparsity."""

from __future__ import annotations

import copy
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Trainer, set_seed

from hf_td.activations import save_activations
from hf_td.analysis import pruning_curve
from hf_td.analysis.metrics import metric_value
from hf_td.experiment.arguments import Arguments
from hf_td.experiment.calibration import how_to_prune
from hf_td.experiment.errors import blaming_input
from hf_td.experiment.methods import METHODS
from hf_td.experiment.output import checkpoint_of, seed_folder
from hf_td.experiment.problem import Problem
from hf_td.learned import save_learned
from hf_td.pruning import sites_to_prune
from hf_td.training import TargetedDropoutArguments, load_teacher

# What evaluation returns beside metrics.
_NOT_METRICS = ("runtime", "per_second", "epoch", "preparation_time")


def fine_tune_and_measure(problem: Problem, arguments: Arguments, seed: int) -> dict[str, Any]:
    """Fine-tune a fresh model (or continue from its checkpoint), save it, and prune and measure.

    Returns:
        The seed; `model`, the folder of the saved model (None without training); `training`, what
        the Trainer says of it; `curve`, a point for each sparsity; the seconds of both stages.

    Raises:
        UsageError: the model cannot be loaded, or has nothing that can be pruned as it is wanted.
        FloatingPointError: the loss is not finite.
    """
    folder = seed_folder(arguments, seed)
    training = _training_arguments(problem, arguments, seed, folder)
    trainer = _make_trainer(problem, arguments, training)
    started = time.perf_counter()
    summary = _train(trainer, arguments, seed) if arguments.trains else {}
    trained = time.perf_counter()
    if arguments.trains:
        _save(trainer, problem, folder)
    curve = _measure(trainer, problem, arguments) if arguments.measures else []
    return {
        "seed": seed,
        "model": folder.name if arguments.trains else None,
        "training": summary,
        "curve": curve,
        "train_seconds": trained - started,
        "measure_seconds": time.perf_counter() - trained,
    }


def _training_arguments(
    problem: Problem, arguments: Arguments, seed: int, folder: Path
) -> TargetedDropoutArguments:
    training = copy.copy(arguments.training)
    training.push_to_hub = False  # what is published is the export, not a checkpoint
    training.seed, training.output_dir = seed, str(folder)
    if (training.metric_for_best_model or "").removeprefix("eval_") == problem.metric:
        training.greater_is_better = not problem.lower_is_better
    training.dataloader_pin_memory &= torch.accelerator.is_available()  # or torch warns
    return training


def _make_trainer(
    problem: Problem, arguments: Arguments, training: TargetedDropoutArguments
) -> Trainer:
    set_seed(training.seed)
    model = problem.make_model()
    with blaming_input():
        # Refuses what the model has not; activations are measured later.
        sites_to_prune(model, training.targeted_dropout(), importance="magnitude")
    trainer = METHODS[arguments.curve.method].make_trainer(
        problem.trainer_family,
        training.level,
        arguments.method_settings,
        model=model,
        args=training,
        train_dataset=problem.train_data,
        eval_dataset=problem.eval_data,
        processing_class=problem.processor,
        data_collator=problem.collator,
        compute_metrics=problem.compute_metrics,
        preprocess_logits_for_metrics=problem.reduce_logits,
    )
    if training.teacher is not None and arguments.trains:
        with blaming_input():  # refuse a teacher that does not fit before anything is trained
            load_teacher(training.teacher, _model(trainer), problem.processor)
    return trainer


def _train(trainer: Trainer, arguments: Arguments, seed: int) -> dict[str, Any]:
    checkpoint = checkpoint_of(arguments, seed)
    if checkpoint is not None:
        print(f"seed {seed}: continuing from {checkpoint}", flush=True)
    done = trainer.train(resume_from_checkpoint=checkpoint)
    return {"updates": done.global_step, "loss": done.training_loss}


def _save(trainer: Trainer, problem: Problem, folder: Path) -> None:
    if trainer.args.should_save:
        _model(trainer).save_pretrained(folder)
        save_activations(_model(trainer), folder)
        save_learned(_model(trainer), folder)
        problem.processor.save_pretrained(folder)


def _measure(trainer: Trainer, problem: Problem, arguments: Arguments) -> list[dict[str, Any]]:
    sparsities = iter(arguments.curve.sparsities)

    def evaluate(_: Any) -> dict[str, float]:
        metrics = _metrics(trainer.evaluate())
        value = metric_value(metrics[problem.metric])
        print(f"  {next(sparsities):.1%} removed: {problem.metric} {value}", flush=True)
        return metrics

    points = pruning_curve(
        _model(trainer),
        arguments.curve.sparsities,
        evaluate,
        **how_to_prune(_model(trainer), problem, arguments),
    )
    return [asdict(point) for point in points]


def _model(trainer: Trainer) -> PreTrainedModel:
    model = trainer.model
    assert isinstance(model, PreTrainedModel)
    return model


def _metrics(evaluation: dict[str, float]) -> dict[str, float]:
    return {
        name.removeprefix("eval_"): value
        for name, value in evaluation.items()
        if not name.endswith(_NOT_METRICS)
    }
