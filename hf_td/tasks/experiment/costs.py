"""Measures the size and the speed of what an export of a pruned model would be."""

from __future__ import annotations

import copy
from dataclasses import asdict
from typing import Any

import torch
from transformers.utils.generic import find_labels

from hf_td.compaction import can_compact, compact_model
from hf_td.hub import Latency, measure_latency
from hf_td.hub.export import cut_to_form
from hf_td.tasks.task import Task

_BATCH = 8  # rows of a timed forward


def timed_inputs(model: Any, task: Task) -> dict[str, Any]:
    """Return the first rows that are measured on, without labels, on the device of a model."""
    data = task.eval_data
    data = next(iter(data.values())) if isinstance(data, dict) else data
    batch = task.collator([data[i] for i in range(min(_BATCH, len(data)))])
    labels = find_labels(type(model))
    return {name: value.to(model.device) for name, value in batch.items() if name not in labels}


def compact_latency(model: Any, task: Task, example_inputs: Any) -> Latency | None:
    """Compare the latency of the compact and the dense model; None if they are the same."""
    if not can_compact(model, example_inputs=example_inputs):
        return None
    compact = compact_model(copy.deepcopy(model), example_inputs=example_inputs)
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    inputs = timed_inputs(model.to(device), task)
    return measure_latency(model, compact.to(device), inputs)


def measure_costs(model: Any, task: Task, example_inputs: Any) -> dict[str, Any]:
    """Measure what `export_model` would write of a pruned model, as JSON values.

    Returns:
        `form`, `parameters`, `bytes` of the weights, and `latency`: a comparison with the full
        widths. The pruned model itself is not changed.

    Raises:
        TypeError, ValueError: as for `export_model`.
    """
    cut = cut_to_form(model, check=False, example_inputs=example_inputs)
    weights = {id(p): p.numel() * p.element_size() for p in cut.model.parameters()}
    latency = measure_latency(model, cut.model, timed_inputs(model, task))
    return {
        "form": cut.form,
        "parameters": cut.model.num_parameters(),
        "bytes": sum(weights.values()),
        "latency": asdict(latency),
    }
