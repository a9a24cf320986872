"""Lets the metric of the pruned model choose, in a run that evaluates while it trains."""

from __future__ import annotations

from hf_td.tasks.experiment.arguments import Arguments
from hf_td.tasks.experiment.methods import METHODS
from hf_td.tasks.task import Task
from hf_td.training import TargetedDropoutArguments
from hf_td.training.pruned_evaluation import AT, name_at


def choose_by_pruned(task: Task, arguments: Arguments, training: TargetedDropoutArguments) -> None:
    """Set what evaluations measure and what chooses, where the user has not.

    Evaluations measure the largest sparsity that is not above the targeting. Where a checkpoint is
    chosen, by default the task's metric at this sparsity chooses. Other methods than targeted
    dropout prune after the training alone.

    Args:
        task: the task.
        arguments: arguments of the experiment.
        training: training arguments of one seed, changed in place.
    """
    evaluates = str(getattr(training.eval_strategy, "value", training.eval_strategy)) != "no"
    if evaluates and METHODS[arguments.curve.method].targets and training.eval_sparsity is None:
        training.eval_sparsity = arguments.largest_trained_sparsity
    # Transformers names the loss where no metric was given.
    if training.metric_for_best_model == "loss" and training.eval_sparsity is not None:
        training.metric_for_best_model = name_at(task.metric, training.eval_sparsity)
    metric = (training.metric_for_best_model or "").removeprefix("eval_").partition(AT)[0]
    if metric == task.metric:
        training.greater_is_better = not task.lower_is_better


def choose_by_full(task: Task, training: TargetedDropoutArguments) -> None:
    """Set that a plain fine-tuning measures and chooses by the full weights, and prunes nothing.

    Args:
        task: the task.
        training: training arguments of one seed, changed in place.
    """
    training.eval_sparsity = training.fixed_sparsity = None
    if training.metric_for_best_model is not None:
        training.metric_for_best_model = training.metric_for_best_model.partition(AT)[0]
