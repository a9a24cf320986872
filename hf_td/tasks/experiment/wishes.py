"""Prunes a fine-tuned model to a speed, a size or a loss in place of a sparsity."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from hf_td.tasks.experiment.arguments import Arguments
from hf_td.tasks.experiment.stages import remove_bars
from hf_td.tasks.experiment.trainers import make_trainer
from hf_td.tasks.task import Task
from hf_td.wishes import WishReport, prune_to


def prune_to_wishes(
    model: Any, task: Task, arguments: Arguments, how: dict[str, Any], timed: dict[str, Any]
) -> WishReport:
    """Prune a model in place to the wishes of the arguments.

    Args:
        model: is pruned in place.
        task: evaluates the model, on its validation data.
        arguments: have a wish.
        how: what `how_to_prune` returned.
        timed: inputs to time a forward on.

    Raises:
        ValueError: a wish cannot be met.
    """
    wishes = arguments.wishes
    if "max_loss" in wishes:
        wishes["evaluate"] = _evaluation(task, arguments)
        wishes["lower_is_better"] = task.lower_is_better
    return prune_to(
        model,
        **wishes,
        **{**how, "example_inputs": timed},
        form=arguments.curve.export_form,
        processing_class=task.processor,
    )


def _evaluation(task: Task, arguments: Arguments) -> Callable[[Any], float]:
    """Return a function that measures the metric of a task, with the weights that a model has."""
    training = copy.copy(arguments.training)
    training.push_to_hub, training.teacher = False, None
    training.eval_sparsity = training.fixed_sparsity = None

    def evaluate(model: Any) -> float:
        device = model.device
        trainer = make_trainer(task, "none", training, model)
        remove_bars(trainer)
        found = trainer.evaluate()
        model.to(device)
        return found[f"eval_{task.metric}"]

    return evaluate
