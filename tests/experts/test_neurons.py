"""Targeted dropout inside experts: neurons and weights of each expert are ranked separately."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from hf_td import anneal, compact_model, patch_model, prune_model, read_anatomy, unpatch_model
from hf_td.anatomy import find_layer
from hf_td.compaction.kept import live_units, needed_units
from hf_td.patching.layers import is_targeted, kept
from hf_td.patching.patch import find_patch
from tests.families import family_inputs, family_outputs, tiny_family

every_family = pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "gpt_oss"])
every_way = pytest.mark.parametrize("way", ["eager", "grouped_mm", "batched_mm"])
PATH = "model.layers.0.mlp.experts"
RATES: dict[str, Any] = {
    "targeting": 0.5,
    "drop_rate": 0.7,
    "targeting_schedule": "constant",
    "importance": "magnitude",
}


def experts_of(model: Any) -> Any:
    return model.get_submodule(PATH)


def block_of(model: Any) -> Any:
    return next(block for block in read_anatomy(model).blocks if block.name == PATH)


@every_family
@every_way
@pytest.mark.parametrize("level", ["weight", "unit"])
def test_training_computes_with_the_masked_weights(family, level, way):
    model = tiny_family(family)
    model.set_experts_implementation(way)
    patch_model(model, level=level, attention_level="none", **RATES)
    anneal(model, progress=1.0, update=3)
    by_hand = copy.deepcopy(model)
    unpatch_model(by_hand)
    patch = find_patch(model)
    assert patch is not None
    with torch.no_grad():
        for site in patch.sites:
            mask = kept(site.layer).float()
            assert 0.5 < float(mask.mean()) < 1
            find_layer(by_hand, site.name).weight.mul_(mask)
    inputs = family_inputs(model)
    outputs = [m(**inputs)[0] for m in (model.train(), by_hand.train())]
    assert_close(*outputs)
    for output in outputs:
        output.square().sum().backward()
    for site in patch.sites:
        reference = find_layer(by_hand, site.name).weight.grad
        assert_close(site.layer.weight.grad, reference * kept(site.layer))
    stacks = experts_of(model)
    assert not {"gate_up_proj", "down_proj"} & set(stacks.__dict__)


@every_family
def test_neurons_are_ranked_inside_each_expert(family):
    model = tiny_family(family)
    patch_model(model, level="unit", attention_level="none", **{**RATES, "drop_rate": 1.0})
    anneal(model, progress=1.0, update=0)
    patch = find_patch(model)
    assert patch is not None
    site = patch.sites[0]
    block = block_of(model)
    scores = site.scores()
    assert scores.shape == (4, block.units)
    for expert in range(4):
        rows = [
            find_layer(model, p.module).weight[expert].movedim(p.feature_dim(model) - 1, 0)[j]
            for p in block.producers
            for j in p.features[5].tolist()
        ]
        norm = torch.cat([row.flatten() for row in rows]).norm()
        assert_close(scores[expert, 5], norm)
    mask, outputs = kept(site.layer), site.layer.layout.unit_dim
    assert torch.equal(mask.any(outputs), mask.all(outputs))
    live = mask.any(outputs)
    assert live.shape == (4, block.units)
    for expert in range(4):
        assert int(live[expert].sum()) == block.units // 2
        assert scores[expert][live[expert]].min() >= scores[expert][~live[expert]].max()
    assert len({tuple(row.tolist()) for row in live}) == 4


@every_family
def test_weights_are_ranked_inside_each_output_unit(family):
    model = tiny_family(family)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    prune_model(model, 0.5, level="weight", attention_level="none")
    for leaf in ("gate_up_proj", "down_proj"):
        name = f"{PATH}.{leaf}"
        stack = find_layer(model, name)
        dim = stack.layout.fan_in_dim
        gone = stack.weight == 0
        assert (gone.sum(dim) == stack.weight.shape[dim] // 2).all()
        size = before[name].abs()
        low = size.masked_fill(~gone, 0).amax(dim)
        assert (low <= size.masked_fill(gone, torch.inf).amin(dim)).all()


@every_family
def test_experts_lose_different_neurons_and_compute_the_same(family):
    model = tiny_family(family)
    prune_model(model, 0.5, level="unit", attention_level="none")
    block, experts = block_of(model), experts_of(model)
    live = live_units(model, block)
    assert (live.sum(1) == block.units // 2).all()
    assert not (live == live[0]).all()
    masked = {n: p.detach().clone() for n, p in experts.named_parameters()}
    expected = family_outputs(model)
    compact_model(model)
    for key, value in family_outputs(model).items():
        assert_close(value, expected[key], rtol=1e-5, atol=1e-5)
    dims = {p.module.rpartition(".")[2]: p.feature_dim(model) for p in block.projections}
    for leaf, dim in dims.items():
        roles = [p for p in block.projections if p.module.endswith(leaf)]
        for expert in range(4):
            index = torch.cat([p.features[live[expert]].flatten() for p in roles]).sort().values
            wanted = masked[leaf][expert].index_select(dim - 1, index)
            assert_close(getattr(experts, leaf)[expert], wanted, rtol=0, atol=0)
            bias = masked.get(f"{leaf}_bias")
            if bias is not None and leaf == "gate_up_proj":
                got = getattr(experts, f"{leaf}_bias")[expert]
                assert_close(got, bias[expert][index], rtol=0, atol=0)


@torch.no_grad()
def test_a_module_is_as_wide_as_its_widest_expert():
    model = tiny_family("mixtral")
    down = experts_of(model).down_proj
    for expert, left in enumerate((10, 3, 0, 17)):
        down[expert, :, left:] = 0
    expected = family_outputs(model)
    counts = needed_units(model, read_anatomy(model), 1)
    assert counts[block_of(model)] == 24
    compact_model(model, multiple_of=1)
    assert experts_of(model).down_proj.shape == (4, 32, 24)
    assert experts_of(model).gate_up_proj.shape == (4, 48, 32)
    for key, value in family_outputs(model).items():
        assert_close(value, expected[key], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("multiple", [1, 4, 8])
def test_grouped_kernels_take_every_compact_width(multiple):
    model = tiny_family("mixtral")
    prune_model(model, 0.71, level="unit")  # 19 neurons are left
    expected = family_outputs(model)
    compact_model(model, multiple_of=multiple)
    assert model.config._experts_implementation == "grouped_mm"
    assert experts_of(model).down_proj.shape[-1] == 24
    for key, value in family_outputs(model).items():
        assert_close(value, expected[key], rtol=1e-5, atol=1e-5)


def test_a_global_budget_ranks_neurons_of_all_experts():
    model = tiny_family("mixtral")
    with torch.no_grad():
        experts_of(model).gate_up_proj[1] *= 0.01
    report = prune_model(model, 0.5, level="unit", attention_level="none", budget="global")
    gone = {b.name: (b.removed, b.total) for b in report.blocks if b.part == "feed_forward"}
    assert sum(removed for removed, _ in gone.values()) == 256
    assert {total for _, total in gone.values()} == {256}
    live = live_units(model, block_of(model)).sum(1)
    assert live[1] == live.min() < live[0]


@pytest.mark.parametrize("of", ["parameters", "flops"])
def test_neurons_of_experts_have_a_cost(of):
    model = tiny_family("gpt_oss")
    prune_model(model, 0.5, level="unit", budget="global", of=of)
    expected = family_outputs(model)
    compact_model(model)
    for key, value in family_outputs(model).items():
        assert_close(value, expected[key], rtol=1e-5, atol=1e-5)


def test_one_stack_can_be_targeted_alone():
    model = patch_model(tiny_family("mixtral"), include=["*.experts.down_proj"], **RATES)
    masks = [name for name, _ in model.named_buffers() if name.endswith("cutoff")]
    assert masks == [f"model.layers.{layer}.mlp.experts.down_proj_cutoff" for layer in range(2)]
    assert is_targeted(experts_of(model))
    unpatch_model(model)
    assert not is_targeted(experts_of(model))


def test_a_forward_that_was_replaced_is_refused():
    model = tiny_family("mixtral")
    experts_of(model).forward = lambda hidden, index, weights: hidden
    with pytest.raises(TypeError, match=rf"cannot target {PATH}.gate_up_proj: its forward was"):
        patch_model(model)
