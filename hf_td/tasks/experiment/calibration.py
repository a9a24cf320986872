"""Chooses how to prune a fine-tuned model, and makes calibration batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from hf_td.ranking.activations import find_activations
from hf_td.ranking.learned import find_learned
from hf_td.tasks.example_inputs import read_example_inputs
from hf_td.tasks.experiment.arguments import Arguments
from hf_td.tasks.experiment.methods import METHODS
from hf_td.tasks.task import Task


def how_to_prune(model: nn.Module, task: Task, arguments: Arguments) -> dict[str, Any]:
    """Return the arguments of `prune_model` and `pruning_curve`, except the sparsities.

    A model with learned scores is ranked by them, any other by the importance of the arguments.
    """
    config = arguments.training.targeted_dropout()
    inputs: dict[str, Any] = {
        "example_inputs": read_example_inputs(arguments.model.example_inputs, model)
    }
    if METHODS[arguments.curve.method].baseline is not None and find_learned(model):
        return {"config": replace(config, importance="learned"), **inputs}
    known = find_activations(model) if config.importance == "activation" else None
    ranks = config.importance in ("activation", "taylor", "movement", "reap") and known is None
    compensate = arguments.curve.compensate
    if not ranks and compensate is None:
        return {"config": config, "calibration": None, **inputs}
    if compensate is not None:
        inputs |= {"compensate": compensate, "activations": known}
    size, device = arguments.training.per_device_eval_batch_size, next(model.parameters()).device
    batches = first_batches(task, arguments.curve.calibration_samples, size, device)
    return {"config": config, "calibration": batches, **inputs}


def first_batches(task: Task, rows: int, size: int, device: torch.device) -> list[dict[str, Any]]:
    """Return the first training rows, in batches of `size` on a device."""
    chosen = range(min(rows, len(task.train_data)))
    chunks = [chosen[start : start + size] for start in range(0, len(chosen), size)]
    batches = [task.collator([task.train_data[i] for i in chunk]) for chunk in chunks]
    return [{name: value.to(device) for name, value in batch.items()} for batch in batches]
