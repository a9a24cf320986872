"""Units verified by brute force: producers reach the output only through the consumer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_td import read_anatomy
from hf_td.anatomy import Projection
from tests.tiny import tiny_inputs, tiny_model


def outputs(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return model(**tiny_inputs(model)).logits


def rows_of(model: nn.Module, projection: Projection, unit: int) -> list[Tensor]:
    """Return a unit's slices of the weight, and of a producer's bias."""
    layer: Any = model.get_submodule(projection.module)
    weight = layer.weight.data.movedim(projection.feature_dim(model), 0)
    rows = [weight[i] for i in projection.features[unit].tolist()]
    if layer.bias is None or projection.reads:
        return rows
    return rows + [layer.bias.data[i] for i in projection.features[unit].tolist()]


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5_gated"])
def test_producers_of_a_unit_reach_the_output_through_its_consumer_alone(family):
    anatomy = read_anatomy(tiny_model(family))
    for block in anatomy.blocks[-2:]:
        for unit in {0, 1, block.units - 1}:
            model = tiny_model(family)
            before = outputs(model)
            for row in (r for p in block.producers for r in rows_of(model, p, unit)):
                row.add_(torch.randn(row.shape))
            assert not torch.equal(outputs(model), before)
            model = tiny_model(family)
            for column in rows_of(model, block.consumer, unit):
                column.zero_()
            without = outputs(model)
            for row in (r for p in block.producers for r in rows_of(model, p, unit)):
                row.add_(torch.randn(row.shape))
            assert torch.equal(outputs(model), without)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_every_producer_of_a_unit_matters_to_it(family):
    anatomy = read_anatomy(tiny_model(family))
    for block in anatomy.blocks[-2:]:
        for producer in block.producers:
            model = tiny_model(family)
            before = outputs(model)
            for row in rows_of(model, producer, 1):
                row.add_(torch.randn(row.shape))
            assert not torch.equal(outputs(model), before), producer.role
