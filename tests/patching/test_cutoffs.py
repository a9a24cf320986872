"""An update is its cut-offs: a patched model equals its stock model with masked weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor
from torch.testing import assert_close

from hf_td import Schedule, anneal, patch_model, unpatch_model
from hf_td.ranking.activations import INTERVAL
from hf_td.ranking.sites import UnitSite
from tests.patching.models import (
    DENSE,
    HALF,
    WHOLE,
    Model,
    a_model,
    assert_same_masks,
    every_level,
    every_way,
    gradients,
    logits,
    masks,
    patch_of,
    patched,
    run,
    stock_with_masked_weights,
)
from tests.reference import lowest, unit_scores
from tests.tiny import checkpoint_activations, tiny_inputs


def slow_masks(now: Model, then: Model) -> dict[str, Tensor]:
    """Return the masks of an update at targeting 0.5 and drop rate 1, True for kept weights.

    Args:
        now: a patched model.
        then: a copy of the model with the weights that were ranked.
    """
    return {
        site.name: _slow_units(site, patch_of(now).anatomy.tied(site.block), then)
        if isinstance(site, UnitSite)
        else _slow_rows(site, then)
        for site in patch_of(now).sites
    }


def _slow_rows(site: Any, then: Model) -> Tensor:
    rows = site.layer.weight.detach().movedim(site.dim, 1)
    before = then.get_submodule(site.name).weight.detach().movedim(site.dim, 1)
    keep = torch.ones_like(rows, dtype=torch.bool)
    for number, (row, ranked) in enumerate(zip(rows.tolist(), before.tolist(), strict=True)):
        cutoff = sorted(map(abs, ranked))[len(ranked) // 2]
        for place, weight in enumerate(row):
            keep[number, place] = abs(weight) >= cutoff
    return keep.movedim(1, site.dim)


def _slow_units(site: UnitSite, tied: Any, then: Model) -> Tensor:
    dim = site.rule.fan_in_dim
    keep = torch.ones_like(site.layer.weight, dtype=torch.bool).movedim(dim, 0)
    for unit in lowest(unit_scores(then, tied), 0.5):
        for feature in site.block.consumer.features[unit].tolist():
            keep[feature] = False
    return keep.movedim(0, dim)


def stock_twin(model: Model, keep: dict[str, Tensor]) -> Model:
    """Return a stock copy of a patched model with the masks applied to its weights."""
    stock: Model = unpatch_model(copy.deepcopy(model))
    for name, mask in keep.items():
        stock.get_submodule(name).weight.data[~mask] = 0
    return stock


def assert_equal_runs(model: Model, stock: Model, keep: dict[str, Tensor], **how: Any) -> None:
    """Assert that a patched model equals its stock twin bit for bit."""
    (outputs, grads), (expected, stock_grads) = run(model, **how), run(stock, **how)
    assert all(map(torch.equal, outputs, expected))
    assert grads.keys() == stock_grads.keys()
    for name, grad in grads.items():
        mask = keep.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        wanted = stock_grads[name] if mask is None else stock_grads[name] * mask
        assert torch.equal(grad, wanted), name


# --- parity, bit for bit ---


def checkpointed(reentrant: bool) -> Callable[[Model], None]:
    def change(model: Model) -> None:
        model.enable_input_require_grads()
        checkpoint_activations(model, use_reentrant=reentrant)
        assert model.is_gradient_checkpointing

    return change


CASES: dict[str, tuple[dict[str, Any], Callable[[Model], None]]] = {
    "one batch": ({}, lambda model: None),
    "three micro-batches": ({"batches": 3}, lambda model: None),
    "autocast": ({"autocast": True}, lambda model: None),
    "micro-batches under autocast": ({"autocast": True, "batches": 2}, lambda model: None),
    "bfloat16": ({}, lambda model: model.bfloat16()),
    "checkpointing": ({"batches": 2}, checkpointed(reentrant=False)),
    "reentrant checkpointing": ({"batches": 2}, checkpointed(reentrant=True)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@every_level
def test_an_update_equals_the_stock_model_masked_by_a_slow_loop(family, level, case):
    how, change = CASES[case]
    model: Model = patched(family, **{**WHOLE, "level": level})
    change(model)
    anneal(model, 1.0, 0)
    keep = slow_masks(model, model)
    assert_same_masks(masks(model), keep)
    assert_equal_runs(model, stock_twin(model, keep), keep, **how)


@pytest.mark.parametrize("family", ["albert", "t5", "t5_gated", "vit", "distilbert"])
@every_level
def test_layers_that_run_more_than_once_have_one_mask(family, level):
    model = patched(family, **{**WHOLE, "level": level})
    anneal(model, 1.0, 0)
    keep = slow_masks(model, model)
    assert_same_masks(masks(model), keep)
    assert_equal_runs(model, stock_twin(model, keep), keep, batches=2)


@every_way
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_every_way_to_rank_and_draw_equals_the_masked_stock_model(family, way):
    settings = {**HALF, **way}
    model = patched(family, **settings)
    for update in range(2):
        anneal(model, 1.0, update)
        keep = masks(model)
        assert all(0 < float(mask.float().mean()) <= 1 for mask in keep.values())
        assert any(not mask.all() for mask in keep.values())
        assert_equal_runs(model, stock_with_masked_weights(model), keep, batches=2)


# --- the mask follows the weights of the forward ---


@every_level
def test_after_a_fused_step_the_new_weights_are_masked(level):
    model = patched("bert", **{**WHOLE, "level": level})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, fused=True)
    for update in range(3):
        anneal(model, 1.0, update)
        ranked = copy.deepcopy(model)
        for _ in range(2):  # the second without another `anneal`
            keep = slow_masks(model, ranked)
            assert_same_masks(masks(model), keep)
            assert_equal_runs(model, stock_twin(model, keep), keep)
            optimizer.step()


@every_level
def test_weights_can_be_ranked_before_the_step(level):
    model = patched("bert", **{**WHOLE, "level": level})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, fused=True)
    anneal(model, 1.0, 0)
    for update in range(1, 4):
        run(model)
        anneal(model, 1.0, update)
        ranked = copy.deepcopy(model)
        optimizer.step()
        keep = slow_masks(model, ranked)
        assert_same_masks(masks(model), keep)
        assert_equal_runs(model, stock_twin(model, keep), keep)


@pytest.mark.parametrize("change", ["another tensor", "copied", "in place"])
@every_level
def test_the_mask_follows_weights_that_change_between_two_forwards(level, change):
    model = patched("bert", **{**WHOLE, "level": level})
    anneal(model, 1.0, 0)
    ranked = copy.deepcopy(model)
    run(model)
    for parameter in model.parameters():
        changed = parameter.detach() + 0.05 * torch.randn_like(parameter)
        if change == "another tensor":
            parameter.data = changed
        elif change == "copied":
            parameter.data.copy_(changed)
        else:
            with torch.no_grad():
                parameter.copy_(changed)
    keep = slow_masks(model, ranked)
    assert_equal_runs(model, stock_twin(model, keep), keep)


@pytest.mark.parametrize("is_patched", [True, False])
@every_level
def test_a_weight_that_changes_before_the_backward_is_an_error_as_in_a_stock_layer(
    level, is_patched
):
    model = patched("bert", level=level)
    anneal(model.train(), 1.0, 0)
    weight = patch_of(model).sites[-1].layer.weight
    loss = logits(model if is_patched else unpatch_model(model)).square().mean()
    with torch.no_grad():
        weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@every_level
def test_a_step_of_another_model_before_the_backward_changes_nothing(level):
    model, other = patched("bert", level=level), patched("bert", level=level)
    anneal(model, 1.0, 0)
    _, expected = run(model)
    optimizer = torch.optim.AdamW(other.parameters(), fused=True)
    torch.manual_seed(0)
    model.zero_grad()
    loss = model(**tiny_inputs(model, 4)).logits.square().mean()
    anneal(other, 1.0, 5)
    run(other)
    optimizer.step()
    loss.backward()
    found = gradients(model)
    assert found.keys() == expected.keys()
    assert all(torch.equal(grad, expected[name]) for name, grad in found.items())


# --- skipped layers, and weights without a gradient ---


def hubert() -> Model:
    """Return a model that skips half of its layers in training, at random."""
    torch.manual_seed(0)
    config = hf.HubertConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        conv_dim=(16, 16),
        conv_stride=(5, 2),
        conv_kernel=(10, 3),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        layerdrop=0.5,
    )
    return hf.HubertForSequenceClassification(config)


@pytest.mark.parametrize("importance", ["magnitude", "activation"])
@every_level
def test_skipped_layers_leave_the_rest_equal_to_the_masked_stock_model(level, importance):
    model = patch_model(hubert(), level=level, **{**HALF, "importance": importance})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    sound = torch.randn(2, 2000, generator=torch.Generator().manual_seed(0))
    skipped = []
    for update in range(INTERVAL + 2):
        anneal(model.train(), 1.0, update)
        stock, grads = stock_with_masked_weights(model), []
        for one in (model, stock.train()):
            hf.set_seed(update)
            one.zero_grad()
            one(sound).logits.square().mean().backward()
            grads.append(gradients(one))
        assert grads[0].keys() == grads[1].keys()
        for name, mask in masks(model).items():
            if f"{name}.weight" in grads[0]:
                wanted = grads[1][f"{name}.weight"] * mask
                assert torch.equal(grads[0][f"{name}.weight"], wanted), name
        skipped.append(sum(site.layer.weight.grad is None for site in patch_of(model).sites))
        optimizer.step()
    assert min(skipped) < max(skipped)


@every_level
def test_frozen_weights_are_masked_and_get_no_gradient(level):
    model = patched("bert", **{**WHOLE, "level": level})
    layers = [site.layer for site in patch_of(model).sites]
    layers[0].weight.requires_grad_(False)
    layers[-1].requires_grad_(False)
    anneal(model, 1.0, 0)
    keep = slow_masks(model, model)
    assert_equal_runs(model, stock_twin(model, keep), keep, batches=2)
    assert layers[0].weight.grad is None
    assert not layers[0].masked_weight().requires_grad
    layers[0].weight.requires_grad_(True)
    assert_equal_runs(model, stock_twin(model, keep), keep)
    assert layers[0].weight.grad is not None


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
@every_level
def test_a_training_forward_without_gradients_changes_nothing(level, guard):
    model = patched("bert", level=level)
    anneal(model.train(), 1.0, 0)
    expected = run(model)
    with guard():
        logits(model)
    assert_close(run(model), expected, rtol=0, atol=0)


@every_level
def test_second_derivatives_equal_those_of_the_masked_stock_model(level):
    model: Model = patched("bert", level=level)
    model.set_attn_implementation("eager")  # the fused attention has no second derivative
    anneal(model, 1.0, 0)
    keep, found = masks(model), []
    for one in (model, stock_with_masked_weights(model)):
        torch.manual_seed(0)
        names, parameters = zip(*one.train().named_parameters(), strict=True)
        loss = logits(one).square().mean()
        grads = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
        penalty = torch.zeros(())
        for name, grad in zip(names, grads, strict=True):
            if grad is not None:
                mask = keep.get(name.removesuffix(".weight")) if "weight" in name else None
                penalty += (grad if mask is None else grad * mask).square().sum()
        one.zero_grad()
        penalty.backward()
        found.append((penalty.detach(), gradients(one)))
    (penalty, grads), (expected, wanted) = found
    assert penalty > 0
    assert torch.equal(penalty, expected)
    assert grads.keys() == wanted.keys()
    for name, grad in grads.items():
        mask = keep.get(name.removesuffix(".weight")) if "weight" in name else None
        assert_close(grad, wanted[name] if mask is None else wanted[name] * mask, msg=name)


# --- dense updates ---


@every_way
def test_a_dense_update_drops_nothing_and_trains_every_weight(way):
    model = patched("bert", **{**HALF, **way})
    anneal(model, 1.0, 0)
    assert patch_of(model).dropped_share() > 0
    schedule = patch_of(model).config.targeting_schedule
    object.__setattr__(patch_of(model).config, "targeting_schedule", Schedule(off=1.0))
    assert anneal(model, 1.0, 1).targeting == 0
    assert patch_of(model).dropped_share() == 0
    assert_equal_runs(model, stock_twin(model, {}), {}, batches=2)
    grads = gradients(model)
    for site in patch_of(model).sites:
        assert (grads[f"{site.name}.weight"] != 0).float().mean() > 0.9, site.name
    object.__setattr__(patch_of(model).config, "targeting_schedule", schedule)
    anneal(model, 1.0, 2)
    assert patch_of(model).dropped_share() > 0


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5", "albert"])
@every_level
def test_a_run_of_dense_updates_equals_a_stock_run(family, level):
    model, stock = patch_model(a_model(family), level=level, **DENSE), a_model(family)
    for one in (model, stock):
        optimizer = torch.optim.AdamW(one.parameters(), lr=0.01)
        for update in range(3):
            if one is model:
                anneal(model, 1.0, update)
            run(one)
            optimizer.step()
    for (name, ours), theirs in zip(model.named_parameters(), stock.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
def test_autocast_casts_inputs_of_any_type_to_weights_of_any_type(stored):
    """On CUDA norms return float32 under autocast, also to layers of a model that is bfloat16."""
    model: Any = patch_model(a_model("llama").to(stored), **WHOLE)
    anneal(model.train(), progress=1.0, update=0)
    stock: Any = stock_with_masked_weights(model)
    name = "model.layers.0.mlp.gate_proj"
    found = []
    for layer in (model.get_submodule(name), stock.get_submodule(name)):
        torch.manual_seed(3)
        states = torch.randn(4, layer.in_features, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            output = layer(states)
        assert output.dtype == torch.bfloat16
        output.float().square().sum().backward()
        found.append((output, states.grad, layer.weight.grad))
    (got, for_input, for_weight), (expected, stock_for_input, stock_for_weight) = found
    assert torch.equal(got, expected)
    assert torch.equal(for_input, stock_for_input)
    assert torch.equal(for_weight, stock_for_weight.masked_fill(~masks(model)[name], 0))


def test_a_frozen_weight_saves_no_input():
    model: Any = patched("bert")
    layer = model.bert.encoder.layer[0].output.dense
    layer.weight.requires_grad_(False)
    anneal(model.train(), progress=1.0, update=0)
    states = torch.randn(1, 3, layer.in_features, requires_grad=True)
    saved: list[Any] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.shape) or t, lambda t: t
    ):
        output = layer(states)
    assert states.shape not in saved
    output.sum().backward()
    assert states.grad is not None
    assert states.grad.shape == states.shape
