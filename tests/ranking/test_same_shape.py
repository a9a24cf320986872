"""Sites whose blocks have the same shape get the scores of each site alone, in one pass."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch

from hf_td import anneal, functional, patch_model
from hf_td.patching.layers import kept
from hf_td.patching.patch import find_patch
from hf_td.ranking.sites import UnitSite, group_by_shape
from tests.tiny import tiny_inputs, tiny_model

FAMILIES = ["bert", "gpt2", "llama", "t5", "vit"]


def patched(family: str, **settings: Any) -> Any:
    constant = {"targeting_schedule": "constant", "drop_rate_schedule": "constant"}
    model = patch_model(tiny_model(family), level="unit", targeting=0.5, **constant, **settings)
    return model.train()


def sites_of(model: Any) -> list[Any]:
    patch = find_patch(model)
    assert patch is not None
    return list(patch.sites)


@pytest.mark.parametrize("importance", ["magnitude", "activation"])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_those_of_each_site(family, importance):
    model = patched(family, importance=importance)
    anneal(model, 0.5, 0)
    for _ in range(2):  # before anything is measured, and after
        groups = group_by_shape(site for site in sites_of(model) if isinstance(site, UnitSite))
        assert groups
        for group in groups:
            expected = torch.stack([site.scores() for site in group.sites])
            torch.testing.assert_close(group.scores(), expected)
        model(**tiny_inputs(model))
        anneal(model, 0.5, 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_follow_the_weights_of_each_update(family):
    model = patched(family, importance="magnitude")
    for update in range(3):
        anneal(model, 0.5, update)
        for site in sites_of(model):
            lowest = functional.candidate_mask(site.scores(), 0.5)
            dropped = site.to_weight(lowest).expand_as(site.layer.weight)
            assert torch.equal(~kept(site.layer), dropped)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        if update == 1:  # changes the storage and the type of all weights
            model.double()


def test_blocks_of_another_shape_are_separate_and_tied_blocks_left_out():
    sites = [site for site in sites_of(patched("t5")) if isinstance(site, UnitSite)]
    groups = group_by_shape(sites)
    together = [site for group in groups for site in group.sites]
    assert len(set(together)) == len(together)
    assert all(len(site.consumers) == 1 for site in together)
    assert any(len(site.consumers) > 1 for site in sites)
    for group in groups:
        assert len({site.layer.weight.shape for site in group.sites}) == 1
        assert len({site.block.part for site in group.sites}) == 1


def test_no_storage_of_a_weight_survives_a_cast_of_the_model():
    model = patched("bert", importance="magnitude")
    anneal(model, 0.5, 0)
    storages = [weakref.ref(p.untyped_storage()) for p in model.parameters() if p.dim() == 2]
    assert all(one() is not None for one in storages)
    model.half()
    assert all(one() is None for one in storages)
