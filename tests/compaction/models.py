"""Pruned models and their outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import PreTrainedModel

from hf_td import compact_model, prune_model, read_anatomy
from hf_td.anatomy import Block
from tests.tiny import FAMILIES, tiny_inputs, tiny_model

every_family = pytest.mark.parametrize("family", FAMILIES)


def masked_model(family: str, sparsity: float = 0.5) -> PreTrainedModel:
    """Return a tiny model with an equal share of zero units in every block."""
    model = tiny_model(family)
    prune_model(model, sparsity, level="unit")
    return model


def uneven_model(family: str) -> PreTrainedModel:
    """Return a tiny model without 3/4 of the units of its first layer and 1/2 of its second."""
    model = tiny_model(family)
    prune_model(model, 0.75, level="unit", layers=[0])
    prune_model(model, 0.5, level="unit", layers=[1])
    return model


def small_model(family: str, sparsity: float = 0.5) -> PreTrainedModel:
    """Return a compact model with as few units as possible."""
    return compact_model(masked_model(family, sparsity), multiple_of=1)


def computed(model: Any) -> dict[str, Tensor]:
    """Return the outputs of a model and, if it generates, the tokens."""
    inputs = tiny_inputs(model)
    ids = {name: value for name, value in inputs.items() if not name.startswith("decoder_")}
    with torch.no_grad():
        found = {"output": model(**inputs)[0]}
        if model.can_generate():
            found["generated"] = model.generate(
                **ids, attention_mask=torch.ones_like(ids["input_ids"]), max_new_tokens=6
            )
    return found


def assert_same(model: PreTrainedModel, expected: dict[str, Tensor], **tolerance: float) -> None:
    """Assert that a model computes the expected values."""
    limits: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5, **tolerance}
    got = computed(model)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(got[name], value, **limits)


def assert_identical(model: Any, other: Any) -> None:
    """Assert that two models have equal weights, bit for bit, and equal outputs up to rounding.

    Matrix products of some libraries depend on where a weight lies in memory.
    """
    assert_close(dict(model.state_dict()), dict(other.state_dict()), rtol=0, atol=0)
    slack = {torch.float64: 1e-12, torch.float32: 1e-6}.get(model.dtype, 1e-2)
    assert_same(model, computed(other), atol=slack, rtol=slack)


def reloaded(model: PreTrainedModel, folder: Path, like: Any = None) -> PreTrainedModel:
    """Save a model and load it again, by its own class or by another."""
    model.save_pretrained(folder)
    return (like or type(model)).from_pretrained(folder, local_files_only=True)


def units_of(model: nn.Module) -> dict[str, int]:
    """Return the number of units of each block."""
    return {block.name: block.units for block in read_anatomy(model).blocks}


def block_named(model: nn.Module, name: str) -> Block:
    """Return the block of this name."""
    (found,) = [block for block in read_anatomy(model).blocks if block.name == name]
    return found


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter under each of its names; the very objects."""
    return dict(model.named_parameters(remove_duplicate=False))


def neurons_pruned(family: str) -> Any:
    """Return a model with half of its neurons pruned, and no head."""
    model = tiny_model(family)
    prune_model(model, 0.5, feed_forward_level="unit", attention_level="none")
    return model
