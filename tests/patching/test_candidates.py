"""Which weights and units are dropped, and what no gradient reaches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from hf_td import TargetedDropoutConfig, anneal
from hf_td.patching.layers import kept
from hf_td.ranking.sites import UnitSite, WeightSite
from tests.patching.models import (
    HALF,
    assert_same_masks,
    every_family,
    every_level,
    gradients,
    masks,
    patch_of,
    patched,
    train_step,
    units_kept,
)
from tests.reference import lowest, unit_scores
from tests.tiny import tiny_model

# --- who is a candidate ---


@every_family
def test_candidates_are_the_lowest_weights_of_each_output_unit(family):
    model = patched(family, drop_rate=1.0)
    anneal(model, 1.0, 0)
    for site in patch_of(model).sites:
        assert isinstance(site, WeightSite)
        keep = kept(site.layer).movedim(site.dim, 1)
        for weights, row in zip(site.layer.weight.movedim(site.dim, 1), keep, strict=True):
            dropped = (~row).nonzero().flatten().tolist()
            assert set(dropped) == lowest(weights.abs().tolist(), 0.5), site.name


@every_family
def test_candidates_are_the_units_of_lowest_norm_of_each_block(family):
    model = patched(family, level="unit", drop_rate=1.0)
    anneal(model, 1.0, 0)
    for site in patch_of(model).sites:
        assert isinstance(site, UnitSite)
        dropped = {i for i, is_kept in enumerate(units_kept(site)) if not is_kept}
        tied = patch_of(model).anatomy.tied(site.block)
        assert dropped == lowest(unit_scores(model, tied), 0.5), site.name


def test_candidates_follow_the_weights_as_they_change():
    model = patched("bert", drop_rate=1.0)
    anneal(model, 1.0, 0)
    site = patch_of(model).sites[0]
    before = kept(site.layer)
    site.layer.weight.data = site.layer.weight.data.reciprocal()
    anneal(model, 1.0, 1)
    assert_close(kept(site.layer), ~before)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@every_level
def test_the_expected_share_is_dropped(family, level):
    model = patched(family, level=level)
    patch = patch_of(model)
    updates, draws, dropped = 40, 0, 0
    for update in range(updates):
        anneal(model, 1.0, update)
        for site in patch.sites:
            keep = torch.tensor(units_kept(site)) if level == "unit" else kept(site.layer)
            draws += keep.numel() // 2
            dropped += int((~keep).sum())
    assert abs(dropped - draws / 2) < 5 * math.sqrt(draws / 4)


@every_family
@every_level
def test_what_is_not_targeted_is_never_dropped(family, level):
    model = patched(family, level=level, drop_rate=1.0)
    anneal(model, 1.0, 0)
    untargeted = masks(model)
    patch_of(model).config = TargetedDropoutConfig(**{**HALF, "level": level})
    candidates_kept = {name: torch.zeros_like(keep) for name, keep in untargeted.items()}
    for update in range(20):
        anneal(model, 1.0, update)
        for name, keep in masks(model).items():
            assert keep[untargeted[name]].all(), name
            candidates_kept[name] |= keep & ~untargeted[name]
    for name, keep in candidates_kept.items():
        assert (keep | untargeted[name]).float().mean() > 0.9, name


def test_the_dropped_share_is_counted_in_weights():
    model = patched("bert", drop_rate=1.0)
    assert patch_of(model).dropped_share() == 0
    anneal(model, 1.0, 0)
    assert patch_of(model).dropped_share() == pytest.approx(0.5)


# --- gradients ---


@every_family
def test_dropped_weights_get_no_gradient_and_others_do(family):
    model = patched(family)
    anneal(model, 1.0, 0)
    train_step(model)
    for site in patch_of(model).sites:
        grad, keep = site.layer.weight.grad, kept(site.layer)
        assert (~keep).any()
        assert (grad[~keep] == 0).all()
        assert (grad[keep] != 0).any()


@every_family
def test_nothing_that_produces_or_reads_a_dropped_unit_gets_a_gradient(family):
    model = patched(family, level="unit", drop_rate=1.0)
    anneal(model, 1.0, 0)
    train_step(model)
    for site in patch_of(model).sites:
        assert isinstance(site, UnitSite)
        keep = torch.tensor(units_kept(site))
        assert (~keep).any()
        for projection in site.block.projections:
            layer: Any = model.get_submodule(projection.module)
            grad = layer.weight.grad.movedim(projection.feature_dim(model), 0)
            assert (grad[projection.features[~keep]] == 0).all(), projection.module
            assert (grad[projection.features[keep]] != 0).any(), projection.module
            if layer.bias is not None and not projection.reads:
                assert (layer.bias.grad[projection.features[~keep]] == 0).all(), projection.module


# --- options ---


@every_level
def test_random_candidates_are_one_fixed_set(level):
    model = patched("bert", level=level, importance="random", drop_rate=1.0)
    anneal(model, 1.0, 0)
    first = masks(model)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    anneal(model, 1.0, 9)
    assert_same_masks(masks(model), first)
    assert patch_of(model).dropped_share() == pytest.approx(0.5)
    by_seed = patched("bert", level=level, importance="random", drop_rate=1.0, seed=3)
    anneal(by_seed, 1.0, 0)
    assert any(not torch.equal(keep, first[name]) for name, keep in masks(by_seed).items())
    by_size = patched("bert", level=level, drop_rate=1.0)
    anneal(by_size, 1.0, 0)
    assert any(not torch.equal(keep, first[name]) for name, keep in masks(by_size).items())


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_random_candidates_grow_into_their_set(family):
    model = patched(
        family, importance="random", drop_rate=1.0, targeting=0.9, targeting_schedule="linear"
    )
    anneal(model, 0.3, 1)
    early = masks(model)
    anneal(model, 0.9, 2)
    for name, keep in masks(model).items():
        assert not (keep & ~early[name]).any()


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_elements_of_targeted_units_are_drawn_one_by_one(family):
    whole = patched(family, level="unit", drop_rate=1.0)
    anneal(whole, 1.0, 0)
    model = patched(family, level="unit", draw="element")
    anneal(model, 1.0, 0)
    dropped = candidates = 0
    for site in patch_of(model).sites:
        keep, untargeted = kept(site.layer), masks(whole)[site.name].expand_as(site.layer.weight)
        assert keep.shape == site.layer.weight.shape
        assert keep[untargeted].all()
        dropped += int((~keep).sum())
        candidates += int((~untargeted).sum())
    assert abs(dropped - candidates / 2) < 5 * math.sqrt(candidates / 4)
    train_step(model)


@every_level
def test_rate_0_trains_as_the_stock_model_bit_for_bit(level):
    model, stock = patched("bert", level=level, drop_rate=0.0), tiny_model("bert")
    anneal(model, 1.0, 0)
    train_step(model)
    train_step(stock)
    expected = gradients(stock)
    for name, grad in gradients(model).items():
        assert torch.equal(grad, expected[name]), name
