"""Patched models of every family, and what is asked of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_td import patch_model, unpatch_model
from hf_td.modules.layouts import linear_layout
from hf_td.patching.layers import is_targeted, kept
from hf_td.patching.patch import Patch, find_patch
from hf_td.ranking.sites import Site, UnitSite
from tests.tiny import FAMILIES, tiny_inputs, tiny_model

LEVELS = ["weight", "unit"]
HALF = {
    "importance": "magnitude",
    "targeting": 0.5,
    "drop_rate": 0.5,
    "targeting_schedule": "constant",
    "drop_rate_schedule": "constant",
}
every_family = pytest.mark.parametrize("family", FAMILIES)
every_level = pytest.mark.parametrize("level", LEVELS)


def tiny_albert() -> PreTrainedModel:
    """One layer that runs three times."""
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
    """A forward and backward in training mode; the same stock dropout every time."""
    torch.manual_seed(0)
    model.train()
    model.zero_grad()
    logits(model).square().mean().backward()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def stock_with_masked_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A stock model whose weights are those that the patched model's update uses."""
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
    """Return True for each unit whose features are kept; all of them are or none."""
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
