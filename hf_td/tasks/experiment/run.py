"""Runs one seed: fine-tunes, saves, and measures at every sparsity."""

from __future__ import annotations

import copy
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from hf_td.analysis import pruning_curve
from hf_td.analysis.metrics import metric_value
from hf_td.tasks.example_inputs import read_example_inputs
from hf_td.tasks.experiment.arguments import Arguments
from hf_td.tasks.experiment.calibration import how_to_prune
from hf_td.tasks.experiment.checkpoints import KEPT, TimedCheckpoints
from hf_td.tasks.experiment.choosing import choose_by_pruned
from hf_td.tasks.experiment.costs import measure_costs
from hf_td.tasks.experiment.output import checkpoint_of, print_once, seed_folder
from hf_td.tasks.experiment.stages import TRAINING, watch
from hf_td.tasks.experiment.start import starting_model
from hf_td.tasks.experiment.trainers import (
    history_of,
    make_trainer,
    model_of,
    prepare,
    save_fine_tuned,
    train,
)
from hf_td.tasks.progress import Job
from hf_td.tasks.task import Task
from hf_td.training import TargetedDropoutArguments

logger = logging.getLogger(__name__)

# Endings of entries of an evaluation that are no metrics.
_NOT_METRICS = ("runtime", "per_second", "epoch", "preparation_time")

# Of a run that only trains.
_NOTHING: dict[str, Any] = {"curve": [], "one_answer": [], "costs": []}


def fine_tune_and_measure(task: Task, arguments: Arguments, seed: int, job: Job) -> dict[str, Any]:
    """Fine-tune a model (or continue from its checkpoint), save it, prune it and measure it.

    Args:
        task: the task.
        arguments: arguments of the experiment.
        seed: of the run.
        job: the job that the run is part of.

    Returns:
        A dictionary: `seed`; `model`, the folder of the saved model (None without training);
        `dense` (None without dense stage) and `training`, the summaries of `trainers.train`;
        `curve`, a point for each sparsity; `one_answer`, the sparsities at which the model gives
        one answer for every row; `costs`, the size and the speed at each sparsity if
        `--measure_costs` asks for them; `log`, the logged updates; `train_seconds` and
        `measure_seconds`.

    Raises:
        UsageError: the model cannot be loaded, or cannot be pruned at this level.
        FloatingPointError: the loss is not finite.
    """
    folder = seed_folder(arguments, seed)
    training = _training_arguments(task, arguments, seed, folder)
    started = time.perf_counter()
    model, dense = starting_model(task, arguments, training, job)
    prepare(model, arguments, training, len(task.train_data))
    trainer = make_trainer(task, arguments.curve.method, training, model, arguments.method_settings)
    watch(trainer, job, TRAINING, task)
    trainer.add_callback(TimedCheckpoints(arguments.minutes_between_checkpoints))
    summary = train(trainer, checkpoint_of(arguments, seed)) if arguments.trains else {}
    trained = time.perf_counter()
    if arguments.trains:
        save_fine_tuned(trainer, folder)
    measured = _measure(trainer, task, arguments) if arguments.measures else _NOTHING
    return {
        "seed": seed,
        "model": folder.name if arguments.trains else None,
        "dense": dense,
        "training": summary,
        **measured,
        "log": history_of(trainer),
        "train_seconds": trained - started,
        "measure_seconds": time.perf_counter() - trained,
    }


def _training_arguments(
    task: Task, arguments: Arguments, seed: int, folder: Path
) -> TargetedDropoutArguments:
    training = copy.copy(arguments.training)
    training.push_to_hub = False  # the export is published, not a checkpoint
    training.teacher = training.teacher if arguments.trains else None
    training.seed, training.output_dir = seed, str(folder)
    training.save_total_limit = training.save_total_limit or KEPT
    choose_by_pruned(task, arguments, training)
    training.dataloader_pin_memory &= torch.accelerator.is_available()  # or torch warns
    return training


def _measure(trainer: Trainer, task: Task, arguments: Arguments) -> dict[str, Any]:
    """Return `curve`, `one_answer` and `costs` of a run."""
    trainer.args.eval_sparsity = None  # pyright: ignore[reportAttributeAccessIssue]
    watch: Any = trainer.compute_metrics
    sparsities, one_answer, costs = iter(arguments.sparsities), [], []
    inputs = read_example_inputs(arguments.model.example_inputs, model_of(trainer))

    def evaluate(model: Any) -> dict[str, float]:
        metrics, sparsity = _metrics(trainer.evaluate()), next(sparsities)
        if watch.found:
            one_answer.append(sparsity)
        value = metric_value(metrics[task.metric])
        note = " (one answer for every row)" if watch.found else ""
        print_once(trainer.args, f"  {sparsity:.1%} removed: {task.metric} {value}{note}")
        if arguments.curve.measure_costs:
            costs.append({"sparsity": sparsity, **measure_costs(model, task, inputs)})
        return metrics

    points = pruning_curve(
        model_of(trainer),
        arguments.sparsities,
        evaluate,
        **how_to_prune(model_of(trainer), task, arguments),
    )
    if min(arguments.sparsities) in one_answer:
        logger.warning(
            "warning: with %.0f %% removed the model gives one answer for every row. It has "
            "learned nothing that could be pruned, so its curve is no result. Train longer, with "
            "more rows or another learning rate, or begin with a fine-tuned model",
            100 * min(arguments.sparsities),
        )
    curve = [asdict(point) for point in points]
    return {"curve": curve, "one_answer": one_answer, "costs": costs}


def _metrics(evaluation: dict[str, float]) -> dict[str, float]:
    return {
        name.removeprefix("eval_"): value
        for name, value in evaluation.items()
        if not name.endswith(_NOT_METRICS)
    }
