"""One run: fine-tune with one seed, save, and measure at every sparsity."""

from __future__ import annotations

import copy
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from hf_td.analysis import pruning_curve
from hf_td.analysis.metrics import metric_value
from hf_td.tasks.experiment.arguments import Arguments
from hf_td.tasks.experiment.calibration import how_to_prune
from hf_td.tasks.experiment.output import checkpoint_of, seed_folder, tell
from hf_td.tasks.experiment.problem import Problem
from hf_td.tasks.experiment.start import starting_model
from hf_td.tasks.experiment.trainers import make_trainer, model_of, save_fine_tuned, train
from hf_td.training import TargetedDropoutArguments

# What evaluation returns beside metrics.
_NOT_METRICS = ("runtime", "per_second", "epoch", "preparation_time")


def fine_tune_and_measure(problem: Problem, arguments: Arguments, seed: int) -> dict[str, Any]:
    """Fine-tune a model (or continue from its checkpoint), save it, and prune and measure.

    Returns:
        The seed; `model`, the folder of the saved model (None without training); `dense` and
        `training`, what the Trainer says of the dense stage, if there is one, and of the method;
        `curve`, a point for each sparsity; the seconds of training and of measuring.

    Raises:
        UsageError: the model cannot be loaded, or has nothing that can be pruned as it is wanted.
        FloatingPointError: the loss is not finite.
    """
    folder = seed_folder(arguments, seed)
    training = _training_arguments(problem, arguments, seed, folder)
    started = time.perf_counter()
    model, dense = starting_model(problem, arguments, training)
    trainer = make_trainer(
        problem, arguments.curve.method, training, model, arguments.method_settings
    )
    summary = train(trainer, checkpoint_of(arguments, seed)) if arguments.trains else {}
    trained = time.perf_counter()
    if arguments.trains:
        save_fine_tuned(trainer, folder)
    curve = _measure(trainer, problem, arguments) if arguments.measures else []
    return {
        "seed": seed,
        "model": folder.name if arguments.trains else None,
        "dense": dense,
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
    training.teacher = training.teacher if arguments.trains else None
    training.seed, training.output_dir = seed, str(folder)
    if (training.metric_for_best_model or "").removeprefix("eval_") == problem.metric:
        training.greater_is_better = not problem.lower_is_better
    training.dataloader_pin_memory &= torch.accelerator.is_available()  # or torch warns
    return training


def _measure(trainer: Trainer, problem: Problem, arguments: Arguments) -> list[dict[str, Any]]:
    sparsities = iter(arguments.curve.sparsities)

    def evaluate(_: Any) -> dict[str, float]:
        metrics = _metrics(trainer.evaluate())
        value = metric_value(metrics[problem.metric])
        tell(trainer.args, f"  {next(sparsities):.1%} removed: {problem.metric} {value}")
        return metrics

    points = pruning_curve(
        model_of(trainer),
        arguments.curve.sparsities,
        evaluate,
        **how_to_prune(model_of(trainer), problem, arguments),
    )
    return [asdict(point) for point in points]


def _metrics(evaluation: dict[str, float]) -> dict[str, float]:
    return {
        name.removeprefix("eval_"): value
        for name, value in evaluation.items()
        if not name.endswith(_NOT_METRICS)
    }
