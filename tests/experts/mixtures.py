"""Tiny mixtures whose whole experts are targeted, and helpers to inspect them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hf_td import anneal
from hf_td.modules.routing import pruned_experts
from hf_td.patching.layers import kept
from hf_td.patching.patch import Patch, find_patch
from tests.families import family_inputs, family_outputs, tiny_family

every_family = pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "gpt_oss"])
every_way = pytest.mark.parametrize("way", ["eager", "grouped_mm", "batched_mm"])
EXPERTS = 8
CHOSEN = 2
ONLY: dict[str, Any] = {
    "attention_level": "none",
    "feed_forward_level": "none",
    "experts_level": "unit",
}
RATES: dict[str, Any] = {
    "targeting": 0.5,
    "drop_rate": 1.0,
    "targeting_schedule": "constant",
    "importance": "magnitude",
}


def mixture(family: str, seed: int = 0, experts: int = EXPERTS) -> Any:
    """Return a tiny random model with `experts` experts of different norms in each layer."""
    like = tiny_family(family)
    return built(like, experts, seed)


def built(like: Any, experts: int, seed: int = 0) -> Any:
    """Return a model of the class and sizes of `like` with another number of experts."""
    config = copy.deepcopy(like.config)
    setattr(config, field_of(config), experts)
    torch.manual_seed(seed)
    model = type(like)(config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.experts.down_proj *= torch.rand(experts, 1, 1) + 0.5
            router_of(layer).weight.normal_()
    return model.eval()


def field_of(config: Any) -> str:
    """Return the field of a stock config with the number of experts."""
    names = config.to_dict()
    return "num_experts" if "num_experts" in names else "num_local_experts"


def router_of(layer: Any) -> Any:
    """Return the router of a layer."""
    return getattr(layer.mlp, "gate", None) or layer.mlp.router


def routers_of(model: Any) -> list[Any]:
    return [router_of(layer) for layer in model.model.layers]


def without(model: Any, kept: list[list[int]]) -> Any:
    """Return a stock model built with only the `kept` experts of each layer."""
    small = built(model, len(kept[0]))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for number, chosen in enumerate(kept):
        for name, value in state.items():
            inside = (f"layers.{number}.mlp.gate", f"layers.{number}.mlp.router")
            if any(part in name for part in (*inside, f"layers.{number}.mlp.experts")):
                state[name] = value[chosen]
    small.load_state_dict(state)
    return small


def patch_of(model: Any) -> Patch:
    patch = find_patch(model)
    assert patch is not None
    return patch


def kept_now(model: Any) -> list[list[int]]:
    """Return the experts that the current update keeps, by layer."""
    return [kept(site.layer).nonzero()[:, 0].tolist() for site in patch_of(model).sites]


def left_in(model: Any) -> list[list[int]]:
    """Return the experts that are not pruned, by layer."""
    return [(~pruned_experts(router)).nonzero()[:, 0].tolist() for router in routers_of(model)]


def norms_of(model: Any) -> list[Tensor]:
    """Return the experts' norms, `(experts,)` per layer, computed parameter by parameter."""
    found = []
    for layer in model.model.layers:
        stacks = (layer.mlp.experts.gate_up_proj, layer.mlp.experts.down_proj)
        numbers = range(len(stacks[0]))
        found.append(
            torch.stack([torch.cat([s[e].flatten() for s in stacks]).norm() for e in numbers])
        )
    return found


def logits(model: Any) -> Tensor:
    return model(**family_inputs(model))[0]


def assert_same(model: Any, expected: dict[str, Tensor]) -> None:
    for key, value in family_outputs(model).items():
        assert_close(value, expected[key], rtol=1e-5, atol=1e-5)


def train(model: Any, first: int, last: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for update in range(first, last):
        anneal(model.train(), progress=update / 4, update=update)
        optimizer.state.clear()  # a moment would need a checkpoint of its own
        logits(model).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
