"""Training data on which activations are measured, for models that were trained without it."""

from __future__ import annotations

from typing import Any

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
    device = next(model.parameters()).device
    size = arguments.training.per_device_eval_batch_size
    rows = range(min(_ROWS, len(problem.train_data)))
    chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
    batches = [problem.collator([problem.train_data[i] for i in chunk]) for chunk in chunks]
    return [{name: value.to(device) for name, value in batch.items()} for batch in batches]
