"""A mask is a function of the seed, the update and the layer, and lasts for the update."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from hf_td import anneal, patch_model
from hf_td.patching.layers import cut_of, kept
from tests.patching.models import (
    HALF,
    assert_all_masks_differ,
    assert_same_masks,
    every_family,
    every_level,
    gradients,
    logits,
    masks,
    patch_of,
    patched,
    train_step,
)
from tests.tiny import checkpoint_activations, tiny_model

# --- a mask is a function of the seed, the update and the layer ---


@every_family
@every_level
def test_masks_are_a_function_of_seed_and_update(family, level):
    # There are few units. At this targeting two equal draws by chance are unlikely.
    settings = {"level": level, "feed_forward_level": level, "targeting": 0.9}
    kinds = {} if level == "weight" else {"attention_level": "none"}
    model = patched(family, **settings, **kinds)
    anneal(model, 0.3, 7)
    first = masks(model)
    anneal(model, 0.3, 8)
    assert_all_masks_differ(masks(model), first)
    torch.manual_seed(123)
    anneal(model, 0.3, 7)
    assert_same_masks(masks(model), first)
    twin = patched(family, **settings, **kinds)
    anneal(twin, 0.3, 7)
    assert_same_masks(masks(twin), first)
    other = patched(family, **settings, **kinds, seed=1)
    anneal(other, 0.3, 7)
    assert_all_masks_differ(masks(other), first)


def test_equal_weights_in_another_layer_get_another_mask():
    model: Any = tiny_model("bert")
    layers = model.bert.encoder.layer
    layers[1].load_state_dict(layers[0].state_dict())
    patch_model(model, **HALF)
    anneal(model, 1.0, 0)
    keeps = masks(model)
    ours = {name: keep for name, keep in keeps.items() if ".layer.0." in name}
    theirs = {name: keeps[name.replace(".layer.0.", ".layer.1.")] for name in ours}
    assert_all_masks_differ(ours, theirs)


def test_drawing_masks_leaves_the_global_random_state_alone():
    model = patched("bert")
    state = torch.get_rng_state()
    anneal(model, 0.5)
    assert torch.equal(torch.get_rng_state(), state)


def test_without_a_number_every_call_counts_as_an_update():
    model = patched("bert")
    anneal(model, 0.5)
    first = masks(model)
    anneal(model, 0.5)
    assert_all_masks_differ(masks(model), first)
    anneal(model, 0.5, 0)
    assert_same_masks(masks(model), first)


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.5, 1.0])
def test_rates_follow_the_schedules(progress):
    model = patch_model(
        tiny_model("bert"),
        targeting=0.8,
        drop_rate=0.6,
        targeting_schedule="linear",
        drop_rate_schedule={"shape": "linear", "initial": 0.5},
    )
    expected = (0.8 * progress, 0.6 * (0.5 + 0.5 * progress))
    assert anneal(model, progress, 0)[:2] == pytest.approx(expected)
    assert patch_of(model).rates[:2] == pytest.approx(expected)


# --- one mask for each update ---


@every_level
def test_every_micro_batch_of_an_update_has_the_same_mask(level):
    model = patched("bert", level=level)
    anneal(model, 1.0, 0)
    cuts, first = [cut_of(site.layer) for site in patch_of(model).sites], masks(model)
    for _ in range(3):
        train_step(model)
    for site, cut in zip(patch_of(model).sites, cuts, strict=True):
        assert all(now is then for now, then in zip(cut_of(site.layer), cut, strict=True))
    assert_same_masks(masks(model), first)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5", "vit"])
@pytest.mark.parametrize("annealed", [True, False])
@every_level
def test_recomputed_activations_have_the_same_mask(family, level, annealed):
    grads = []
    for checkpointing in (False, True):
        model: Any = patched(family, level=level)
        if checkpointing:
            checkpoint_activations(model)
        if annealed:
            anneal(model, 1.0, 0)
        train_step(model)
        assert (
            any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
            is checkpointing
        )
        grads.append(gradients(model))
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        assert_close(grads[1][name], grad, msg=name)


@every_level
def test_a_shared_layer_has_one_mask(level):
    model = patched("albert", level=level)
    assert len(patch_of(model).sites) == (6 if level == "weight" else 2)
    anneal(model, 1.0, 0)
    seen = []
    layer = patch_of(model).sites[-1].layer
    layer.register_forward_hook(lambda module, *_: seen.append(kept(module)))
    train_step(model)
    assert len(seen) == 3
    assert all(torch.equal(keep, kept(layer)) for keep in seen)


@pytest.mark.parametrize("family", ["bert", "t5"])
@every_level
def test_without_anneal_each_training_forward_is_an_update_at_the_final_rates(family, level):
    model = patched(family, level=level, targeting_schedule="linear", targeting=0.75)
    patch = patch_of(model)
    model.train()
    logits(model)
    first = masks(model)
    assert patch.rates[:2] == (0.75, 0.5)
    logits(model)
    assert patch.updates == 2
    second = masks(model)
    assert any(not torch.equal(keep, second[name]) for name, keep in first.items())
    model.eval()
    logits(model)
    assert patch.updates == 2
    assert_same_masks(masks(model), second)


def test_masks_of_counted_forwards_equal_those_of_numbered_updates():
    model, twin = patched("bert"), patched("bert")
    model.train()
    logits(model)
    logits(model)
    anneal(twin, 1.0, 1)
    assert_same_masks(masks(model), masks(twin))


def test_anneal_ends_the_counting_of_forwards():
    model = patched("bert")
    assert patch_of(model).self_counting
    anneal(model, 0.5, 4)
    assert not patch_of(model).self_counting
    before = masks(model)
    train_step(model)
    assert_same_masks(masks(model), before)
    assert patch_of(model).updates == 5
