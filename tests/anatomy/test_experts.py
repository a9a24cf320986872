"""Reading modules of experts, whose layers are 3-D parameters."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import MixtralConfig, MixtralForCausalLM

from hf_td import patch_model, read_anatomy
from hf_td.anatomy import Stack, eager_experts, find_layer, linear_layout, parameter_names, reading
from hf_td.anatomy.experts import prove_experts
from tests.families import tiny_family
from tests.tiny import TEXT

EXPERTS = ["mixtral", "qwen3_moe", "gpt_oss"]
GATED = {
    "mixtral": (range(64), range(64, 128)),
    "qwen3_moe": (range(32), range(32, 64)),
    "gpt_oss": (range(0, 128, 2), range(1, 128, 2)),  # interleaved
}


@pytest.mark.parametrize("family", EXPERTS)
def test_gate_up_and_down_are_found_in_the_parameters(family):
    anatomy = read_anatomy(tiny_family(family))
    assert [block.part for block in anatomy.blocks] == ["attention", "feed_forward"] * 2
    assert anatomy.unclaimed == ("lm_head",)
    for layer, block in enumerate(anatomy.blocks[1::2]):
        path = f"model.layers.{layer}.mlp.experts"
        assert (block.name, block.layer, block.obstacle) == (path, layer, None)
        found = {p.role: (p.module, p.features.flatten().tolist()) for p in block.projections}
        gate, up = GATED[family]
        assert found == {
            "gate": (f"{path}.gate_up_proj", list(gate)),
            "up": (f"{path}.gate_up_proj", list(up)),
            "down": (f"{path}.down_proj", list(range(block.units))),
        }


@pytest.mark.parametrize("family", EXPERTS)
def test_reading_leaves_the_model_as_it_was(family):
    model = tiny_family(family)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    chosen = model.config._experts_implementation
    state = torch.get_rng_state()
    read_anatomy(model)
    assert model.config._experts_implementation == chosen != "eager"
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert not any("forward" in module.__dict__ for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_a_model_in_bfloat16_is_read_the_same():
    wide, narrow = tiny_family("mixtral"), tiny_family("mixtral").bfloat16()
    for left, right in zip(read_anatomy(wide).blocks, read_anatomy(narrow).blocks, strict=True):
        assert [p.features.tolist() for p in left.projections] == [
            p.features.tolist() for p in right.projections
        ]


def test_a_stack_is_a_linear_layer_of_every_expert():
    model = tiny_family("gpt_oss")
    name = "model.layers.0.mlp.experts.gate_up_proj"
    stack = find_layer(model, name)
    module = model.get_submodule("model.layers.0.mlp.experts")
    assert isinstance(stack, Stack)
    assert stack.weight is module.gate_up_proj
    assert stack.bias is module.gate_up_proj_bias
    assert parameter_names(model, name) == [name, f"{name}_bias"]
    layout = linear_layout(stack)
    assert layout is not None
    assert (layout.unit_dim, layout.fan_in_dim) == (2, 1)
    query = "model.layers.0.self_attn.q_proj"
    assert find_layer(model, query) is model.get_submodule(query)
    assert parameter_names(model, query) == [f"{query}.weight", f"{query}.bias"]


class Experts(nn.Module):
    """Three experts of six neurons, without gates."""

    is_transposed = False

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(_experts_implementation_internal="grouped_mm")
        self.up_proj = nn.Parameter(torch.randn(3, 6, 4))
        self.down_proj = nn.Parameter(torch.randn(3, 4, 6))

    def forward(self, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        rows = [
            weight * self.expert(token, int(expert))
            for token, (expert,), weight in zip(hidden, index, weights, strict=True)
        ]
        return torch.stack(rows)

    def expert(self, token: Tensor, number: int) -> Tensor:
        return F.linear(F.relu(F.linear(token, self.up_proj[number])), self.down_proj[number])


class Borrowing(Experts):
    """Experts that use the first layer of the next expert."""

    def expert(self, token: Tensor, number: int) -> Tensor:
        up = F.relu(F.linear(token, self.up_proj[1 - number]))
        return F.linear(up, self.down_proj[number])


class Mixing(Experts):
    """Experts whose every neuron reads every row."""

    def expert(self, token: Tensor, number: int) -> Tensor:
        up = F.linear(token, self.up_proj[number])
        return F.linear(F.softmax(up, -1) * up, self.down_proj[number])


def test_experts_without_gates_are_read():
    block = prove_experts("experts", Experts(), 4)
    assert block is not None
    assert [(p.module, p.role, p.features.flatten().tolist()) for p in block.projections] == [
        ("experts.up_proj", "up", list(range(6))),
        ("experts.down_proj", "down", list(range(6))),
    ]


@pytest.mark.parametrize("kind", [Borrowing, Mixing])
def test_what_cannot_be_proven_is_no_block(kind):
    assert prove_experts("experts", kind(), 4) is None


def test_stacks_that_are_in_no_block_are_named():
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = Mixing()

        def forward(self, hidden: Tensor) -> Tensor:
            index = torch.arange(len(hidden))[:, None] % 3
            return self.experts(hidden, index, torch.ones(len(hidden), 1))

    model: Any = nn.Sequential(Layer())
    anatomy = read_anatomy(model, {"input": torch.rand(5, 4)})
    assert anatomy.blocks == ()
    assert anatomy.unclaimed == ("0.experts.up_proj", "0.experts.down_proj")


def test_experts_run_one_by_one_and_then_as_before():
    module = Experts()
    with eager_experts(nn.Sequential(module, module)):
        assert module.config._experts_implementation_internal == "eager"
    assert module.config._experts_implementation_internal == "grouped_mm"


def test_every_layer_of_a_deep_mixture_is_read():
    config = MixtralConfig(
        **{**TEXT, "num_hidden_layers": 5}, num_key_value_heads=2, num_local_experts=4
    )
    anatomy = read_anatomy(MixtralForCausalLM(config))
    assert [m.name for m in anatomy.mixtures] == [f"model.layers.{i}.mlp" for i in range(5)]
    assert [m.obstacle for m in anatomy.mixtures] == [None] * 5
    experts = [b.name for b in anatomy.blocks if b.name.endswith("experts")]
    assert experts == [f"model.layers.{i}.mlp.experts" for i in range(5)]


def test_a_patched_mixture_is_read_alike(monkeypatch):
    model: Any = tiny_family("mixtral")
    stock = read_anatomy(model).mixtures
    monkeypatch.setattr(reading, "_READINGS", {})
    patch_model(model, level="unit", experts_level="unit")
    patched = read_anatomy(model).mixtures
    for one, other in zip(stock, patched, strict=True):
        assert (one.name, one.chosen, one.obstacle) == (other.name, other.chosen, other.obstacle)
        assert [c.parameter for c in one.slices] == [c.parameter for c in other.slices]
