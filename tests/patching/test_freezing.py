"""In updates that drop nothing, only what the others drop learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hf_td import Schedule, anneal, patch_model, prune_model, unpatch_model
from hf_td.config import TargetedDropoutConfig
from hf_td.patching.freezing import hold
from hf_td.patching.patch import find_patch
from hf_td.ranking.sites import UnitSite
from tests.tiny import tiny_inputs, tiny_model

HALF = {"targeting": 0.5, "importance": "magnitude", "resting": 0.0}
ALWAYS_OFF = {**HALF, "targeting_schedule": Schedule(off=1.0)}


def gradients_of(model, progress=1.0):
    """The sites of a model after one backward."""
    anneal(model.train(), progress, 0)
    output = model(**tiny_inputs(model, 4, 16))[0]
    (output * torch.randn_like(output)).sum().backward()
    patch = find_patch(model)
    assert patch is not None
    return patch.sites


def moved(parameter, part):
    """How many of a part of a parameter have a gradient."""
    assert parameter.grad is not None
    return int(parameter.grad[part.expand_as(parameter)].count_nonzero())


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5"])
def test_only_the_lowest_weights_learn(family):
    model = patch_model(tiny_model(family), level="weight", **ALWAYS_OFF)
    for site in gradients_of(model):
        weight = site.layer.weight
        assert (site.layer.keep == 1).all(), "nothing is dropped"
        cut = weight.detach().abs().kthvalue(weight.shape[site.dim] // 2, site.dim, True).values
        assert moved(weight, weight.abs() > cut) == 0
        assert moved(weight, weight.abs() <= cut) > 0


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_only_what_belongs_to_the_lowest_units_learns(family):
    model = patch_model(tiny_model(family), level="unit", **ALWAYS_OFF)
    for site in gradients_of(model):
        assert isinstance(site, UnitSite)
        order = site.scores().argsort()
        kept = torch.zeros(site.block.units, dtype=torch.bool)
        kept[order[site.block.units // 2 :]] = True
        for parameter, part in site.slices(kept):
            assert moved(parameter, part) == 0
        assert sum(moved(parameter, part) for parameter, part in site.slices(~kept)) > 0


def test_what_lies_next_to_the_cut_off_rests():
    model = patch_model(tiny_model("bert"), level="weight", **{**ALWAYS_OFF, "resting": 0.5})
    for site in gradients_of(model):
        weight = site.layer.weight
        cut = weight.detach().abs().kthvalue(weight.shape[site.dim] // 4, site.dim, True).values
        assert moved(weight, weight.abs() > cut) == 0
        assert moved(weight, weight.abs() <= cut) > 0


def test_nothing_but_candidates_learns():
    model = patch_model(tiny_model("bert"), level="weight", **ALWAYS_OFF)
    targeted = {id(site.layer.weight) for site in gradients_of(model)}
    others = [p.grad for p in model.parameters() if id(p) not in targeted and p.grad is not None]
    assert others
    assert not any(gradient.count_nonzero() for gradient in others)


def test_where_no_candidate_can_learn_the_rest_does():
    model = patch_model(tiny_model("bert"), level="weight", **ALWAYS_OFF)
    patch = find_patch(model)
    assert patch is not None
    for site in patch.sites:
        site.layer.weight.requires_grad_(False)
    gradients_of(model)
    biases = [site.layer.bias for site in patch.sites]
    assert all(moved(bias, torch.ones_like(bias, dtype=torch.bool)) for bias in biases[-2:])


def test_everything_learns_before_anything_is_targeted():
    later = Schedule(shape="linear", begin=0.5, off=1.0)
    model = patch_model(tiny_model("bert"), level="weight", **HALF, targeting_schedule=later)
    assert anneal(model, 0.2, 0).learning == 1
    for site in gradients_of(model, progress=0.2):
        assert (site.layer.weight.grad != 0).float().mean() > 0.9
    assert anneal(model, 0.75, 0).learning == pytest.approx(0.25)


def test_the_next_update_and_unpatching_let_everything_learn():
    model = patch_model(tiny_model("bert"), level="weight", **HALF, targeting_schedule=Schedule())
    patch = find_patch(model)
    assert patch is not None
    patch.config = TargetedDropoutConfig(level="weight", **ALWAYS_OFF)
    anneal(model, 1.0, 0)
    assert patch.holds
    unpatch_model(model)
    assert not any(parameter._backward_hooks for parameter in model.parameters())


def test_where_nothing_is_ever_dropped_everything_learns():
    model = patch_model(tiny_model("bert"), level="weight", drop_rate=0.0, **ALWAYS_OFF)
    assert anneal(model, 1.0, 0).learning == 1


def test_pruning_by_a_gradient_lets_everything_learn():
    model = patch_model(tiny_model("bert"), level="weight", **ALWAYS_OFF)
    anneal(model, 1.0, 0)
    patch = find_patch(model)
    assert patch is not None
    assert patch.holds
    batch = {**tiny_inputs(model), "labels": torch.zeros(2, dtype=torch.long)}
    prune_model(model, 0.5, importance="taylor", calibration=[batch])
    assert not any(parameter._backward_hooks for parameter in model.parameters())


@pytest.mark.parametrize("fused", [True, False])
def test_nothing_is_held_once_an_optimiser_has_moved_on(fused):
    """As after the last update of a loop, which nobody says is over."""
    model = patch_model(tiny_model("bert"), level="weight", **ALWAYS_OFF)
    gradients_of(model)
    head = model.get_parameter("classifier.weight")
    assert head.grad is not None
    assert not head.grad.any()
    torch.optim.SGD(model.parameters(), lr=0.1, fused=fused).step()
    model.zero_grad()
    model(**tiny_inputs(model, 4, 16))[0].square().sum().backward()
    assert head.grad is not None
    assert head.grad.any()


def test_what_is_held_stays_held_over_all_micro_batches_of_an_update():
    model = patch_model(tiny_model("bert"), level="weight", **ALWAYS_OFF)
    gradients_of(model)
    model(**tiny_inputs(model, 4, 16))[0].square().sum().backward()
    head = model.get_parameter("classifier.weight")
    assert head.grad is not None
    assert not head.grad.any()


def test_several_parts_of_one_parameter_learn_together():
    layer = nn.Linear(3, 2)
    columns = [torch.tensor([True, False, False]), torch.tensor([False, False, True])]
    holds = hold(layer, [(layer.weight, column.expand(2, 3)) for column in columns])
    layer(torch.ones(1, 3)).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.tolist() == [[1, 0, 1]] * 2
    assert layer.bias.grad is not None
    assert not layer.bias.grad.any()
    for handle in holds:
        handle.remove()
    layer.zero_grad()
    layer(torch.ones(1, 3)).sum().backward()
    assert layer.weight.grad.all()
