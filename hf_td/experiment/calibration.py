"""Training data on which activations are measured, for models that were trained without it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hf_td.activations import find_activations
from hf_td.experiment.arguments import Arguments
from hf_td.experiment.problem import Problem

_ROWS = 256


def calibration_batches(
    model: nn.Module, problem: Problem, arguments: Arguments
) -> list[dict[str, Any]] | None:
    """The first training rows in batches; None where pruning needs none.

    Only importance by activation does, of a model whose training did not measure them.
    """
    importance = arguments.training.targeted_dropout().importance
    if importance != "activation" or find_activations(model) is not None:
        return None
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
