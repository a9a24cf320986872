"""Patched models of every family, with their masks, gradients and comparisons."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_td import Schedule, patch_model, unpatch_model
from hf_td.modules.layouts import linear_layout
from hf_td.patching.layers import is_targeted, kept
from hf_td.patching.patch import Patch, find_patch
from hf_td.ranking.sites import Site, UnitSite
from tests.tiny import FAMILIES, tiny_inputs, tiny_model

Model = Any
Gradients = dict[str, Tensor]

LEVELS = ["weight", "unit"]
HALF = {
    "importance": "magnitude",
    "targeting": 0.5,
    "drop_rate": 0.5,
    "targeting_schedule": "constant",
    "drop_rate_schedule": "constant",
}
every_family = pytest.mark.parametrize("family", FAMILIES)
WHOLE: dict[str, Any] = {**HALF, "drop_rate": 1.0}
DENSE: dict[str, Any] = {**HALF, "targeting_schedule": Schedule(off=1.0)}
MEASURED: dict[str, Any] = {**HALF, "importance": "activation"}
# The ways to rank and to draw.
WAYS: list[dict[str, Any]] = [
    {"level": "weight"},
    {"level": "unit"},
    {"level": "weight", "importance": "random"},
    {"level": "unit", "importance": "random"},
    {"level": "weight", "pattern": "2:4"},
    {"level": "unit", "draw": "element"},
    {"level": "weight", "importance": "activation"},
]
every_way = pytest.mark.parametrize("way", WAYS, ids=str)
every_level = pytest.mark.parametrize("level", LEVELS)


def tiny_albert() -> PreTrainedModel:
    """Return a model whose one layer runs three times."""
    torch.manual_seed(0)
    config = hf.AlbertConfig(
        vocab_size=64,
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
    )
    return hf.AlbertForSequenceClassification(config).eval()


def a_model(family: str) -> PreTrainedModel:
    return tiny_albert() if family == "albert" else tiny_model(family)


def patched(family: str, **settings: Any) -> PreTrainedModel:
    return patch_model(a_model(family), **{**HALF, **settings})


def patch_of(model: nn.Module) -> Patch:
    patch = find_patch(model)
    assert patch is not None
    return patch


def masks(model: nn.Module) -> dict[str, Tensor]:
    return {site.name: kept(site.layer) for site in patch_of(model).sites}


def targeted_names(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if is_targeted(module)}


def logits(model: nn.Module) -> Tensor:
    return model(**tiny_inputs(bare(model))).logits


def bare(model: Any) -> Any:
    return model.inner if isinstance(model, Wrapper) else model


def train_step(model: Any) -> None:
    """Run a forward and backward in training mode, always with the same stock dropout."""
    torch.manual_seed(0)
    model.train()
    model.zero_grad()
    logits(model).square().mean().backward()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def stock_with_masked_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Return a stock copy with the masked weights of the patched model's update."""
    stock = unpatch_model(copy.deepcopy(model))
    for name, keep in masks(model).items():
        layer: Any = stock.get_submodule(name)
        layer.weight.data.masked_fill_(~keep, 0)
    return stock


def assert_same_masks(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, keep in one.items():
        assert torch.equal(keep, other[name]), name


def assert_all_masks_differ(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, keep in one.items():
        assert not torch.equal(keep, other[name]), name


def units_kept(site: Site) -> list[bool]:
    """Return True for each kept unit, after checking that units are kept or dropped whole."""
    assert isinstance(site, UnitSite)
    layout = linear_layout(site.layer)
    assert layout is not None
    keep = kept(site.layer)
    by_input = keep.any(layout.unit_dim)
    assert torch.equal(by_input, keep.all(layout.unit_dim))
    by_feature = by_input[site.block.consumer.features]
    assert (by_feature == by_feature[:, :1]).all()
    return by_feature[:, 0].tolist()


class Wrapper(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, **inputs: Any) -> Any:
        return self.inner(**inputs)


def run(model: Model, batches: int = 1, autocast: bool = False) -> tuple[list[Tensor], Gradients]:
    """Return the outputs of `batches` micro-batches in training, and the accumulated gradients."""
    torch.manual_seed(0)
    model.train()
    model.zero_grad()
    inner = bare(model)
    name = inner.main_input_name
    outputs = []
    for number in range(batches):
        inputs = tiny_inputs(inner, 4)
        inputs[name] = inputs[name].roll(number, 1)
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            output = model(**inputs).logits
        output.float().square().mean().backward()
        outputs.append(output.detach())
    return outputs, gradients(model)


def sums(model: Model) -> list[Tensor]:
    """Return copies of the sum of squares and the number of rows of each site."""
    layers = [site.layer for site in patch_of(model).sites]
    return [
        tensor.clone() for layer in layers for tensor in (layer.input_squares, layer.input_rows)
    ]


def averages(model: Model) -> dict[str, Tensor]:
    activations = patch_of(model).activations
    assert activations is not None
    return activations.mean_squares
