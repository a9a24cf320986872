"""How a model that was fine-tuned is pruned, and the training data that this looks at."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from hf_td.ranking.activations import find_activations
from hf_td.ranking.learned import find_learned
from hf_td.tasks.experiment.arguments import Arguments
from hf_td.tasks.experiment.methods import METHODS
from hf_td.tasks.experiment.problem import Problem

_ROWS = 256


def how_to_prune(model: nn.Module, problem: Problem, arguments: Arguments) -> dict[str, Any]:
    """The arguments of `prune_model` and `pruning_curve`, beside the sparsities.

    Every method is pruned in the same way; one that learned scores by these, and the others by the
    importance that was asked for.
    """
    config = arguments.training.targeted_dropout()
    if METHODS[arguments.curve.method].baseline is not None and find_learned(model):
        return {"config": replace(config, importance="learned")}
    measured = config.importance == "activation" and find_activations(model) is not None
    needs = config.importance in ("activation", "taylor", "movement") and not measured
    calibration = calibration_batches(model, problem, arguments) if needs else None
    return {"config": config, "calibration": calibration}


def calibration_batches(
    model: nn.Module, problem: Problem, arguments: Arguments
) -> list[dict[str, Any]]:
    """The first training rows, in batches on the device of the model."""
    size = arguments.training.per_device_eval_batch_size
    return first_batches(problem, _ROWS, size, next(model.parameters()).device)


def first_batches(
    problem: Problem, rows: int, size: int, device: torch.device
) -> list[dict[str, Any]]:
    """The first training rows, in batches of `size`."""
    chosen = range(min(rows, len(problem.train_data)))
    chunks = [chosen[start : start + size] for start in range(0, len(chosen), size)]
    batches = [problem.collator([problem.train_data[i] for i in chunk]) for chunk in chunks]
    return [{name: value.to(device) for name, value in batch.items()} for batch in batches]
