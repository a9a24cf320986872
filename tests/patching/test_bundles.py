"""Masked weights that many layers get at once: the same as each by itself, and never old ones."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hf_td import anneal, functional, kernels, patch_model, prune_model, unpatch_model
from hf_td.kernels import Drawn
from hf_td.patching import bundles
from hf_td.patching.bundles import bundle_of
from hf_td.patching.layers import TargetedLinear
from hf_td.patching.patch import find_patch
from tests.tiny import tiny_inputs, tiny_model

HALF = {"targeting": 0.5, "targeting_schedule": "constant", "importance": "magnitude"}


def patched(**settings: Any) -> Any:
    model = patch_model(tiny_model("bert"), **{**HALF, **settings})
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    anneal(model.train(), 0.5, 0)
    return model


def layers_of(model: Any) -> list[Any]:
    patch = find_patch(model)
    assert patch is not None
    return [site.layer for site in patch.sites]


def gradients(model: Any, inputs: Any) -> dict[str, Tensor]:
    model.zero_grad()
    model(**inputs)[0].square().mean().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def one_by_one(model: Any) -> Any:
    """The same model, whose layers are in no bundle."""
    other = copy.deepcopy(model)
    for layer in layers_of(other):
        bundles.untie(layer)
    return other


@pytest.mark.parametrize("level", ["weight", "unit"])
@pytest.mark.parametrize("size", [1, 1 << 30])
def test_gradients_are_those_of_each_layer_by_itself(level, size, monkeypatch):
    monkeypatch.setattr(bundles, "_BYTES", size)
    model = patched(level=level)
    inputs = tiny_inputs(model)
    found, expected = gradients(model, inputs), gradients(one_by_one(model), inputs)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())
    for layer in layers_of(model):
        dropped = ~layer.keep.expand_as(layer.weight)
        assert dropped.any()
        assert not layer.weight.grad[dropped].any()


def test_they_are_made_once_for_a_forward_and_are_gone_after_its_backward(monkeypatch):
    made: list[int] = []
    together = kernels.masked_together

    def counted(weights: Any, *others: Any) -> Any:
        made.append(len(weights))
        return together(weights, *others)

    monkeypatch.setattr(kernels, "masked_together", counted)
    model = patched()
    layers = layers_of(model)
    (own,) = {bundle_of(layer) for layer in layers}
    assert own is not None
    inputs = tiny_inputs(model)
    losses = [model(**inputs)[0].square().mean() for _ in range(2)]
    assert made == [len(layers)]
    assert own._made
    torch.stack(losses).sum().backward()
    assert not own._made
    gradients(model, inputs)  # the next micro-batch
    assert made == [len(layers)] * 2


def test_a_weight_that_changed_meanwhile_is_not_taken_from_before():
    model = patched()
    inputs = tiny_inputs(model)
    model(**inputs)  # makes them, and has no backward
    layer = layers_of(model)[0]
    with torch.no_grad():
        layer.weight.add_(1)
    assert torch.equal(layer.effective_weight(), functional.masked(layer.weight, layer.keep))
    layer.weight.data = layer.weight.data.clone().mul_(2)
    assert torch.equal(layer.effective_weight(), functional.masked(layer.weight, layer.keep))
    anneal(model, 0.5, 1)
    assert torch.equal(layer.effective_weight(), functional.masked(layer.weight, layer.keep))


def test_frozen_weights_get_no_gradient():
    model = patched()
    layers = layers_of(model)
    layers[0].weight.requires_grad_(False)
    assert not layers[0].effective_weight().requires_grad
    found = gradients(model, tiny_inputs(model))
    names = {id(p): n for n, p in model.named_parameters()}
    assert names[id(layers[0].weight)] not in found
    assert names[id(layers[1].weight)] in found
    layers[0].weight.requires_grad_(True)
    assert layers[0].effective_weight().requires_grad


def test_a_first_forward_without_gradients_does_no_harm():
    model = patched()
    inputs = tiny_inputs(model)
    expected = gradients(one_by_one(model), inputs)
    with torch.no_grad():
        model(**inputs)
    found = gradients(model, inputs)
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())
    anneal(model, 0.5, 0)
    with torch.inference_mode():
        model(**inputs)
    found = gradients(model, inputs)
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_learns_the_same(reentrant):
    torch.manual_seed(0)
    blocks: Any = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(3))
    for block in blocks:
        linear: Any = block[0]
        linear.__class__ = TargetedLinear
        linear.register_buffer("keep", torch.rand(8, 8) < 0.5, persistent=False)
    bundles.bundle(block[0] for block in blocks)
    x = torch.randn(4, 8, requires_grad=True)

    def run(checkpointed: bool) -> list[Tensor]:
        blocks.zero_grad()
        y: Any = x
        for block in blocks:
            y = checkpoint(block, y, use_reentrant=reentrant) if checkpointed else block(y)
        y.square().sum().backward()
        return [p.grad.clone() for p in blocks.parameters() if p.grad is not None]

    expected, found = run(False), run(True)
    assert len(expected) == 6
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_under_autocast_they_are_in_its_type_and_gradients_in_the_weights():
    model = patched()
    inputs = tiny_inputs(model)
    other = one_by_one(model)
    with torch.autocast("cpu", torch.bfloat16):
        layer = layers_of(model)[0]
        assert layer.effective_weight().dtype == torch.bfloat16
        found, expected = gradients(model, inputs), gradients(other, inputs)
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())
    assert all(gradient.dtype == torch.float32 for gradient in found.values())
    assert layer.effective_weight().dtype == torch.float32


def test_what_was_masked_when_it_was_drawn_is_used():
    model = patched()
    layers = layers_of(model)
    own = bundle_of(layers[0])
    assert own is not None
    inputs = tiny_inputs(model)
    expected = gradients(model, inputs)  # tells the bundle the type
    assert own.compute == torch.float32
    stacked = torch.stack([layers[0].weight.detach() * layers[0].keep] * 2)
    own.prepare(layers[0], Drawn(layers[0].keep, stacked.unbind()[0]))  # a view, as of a launch
    assert layers[0].effective_weight().data_ptr() == stacked.data_ptr()
    found = gradients(model, inputs)
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())
    # Of another mask, or of a weight that changed since: not used.
    own.prepare(layers[0], Drawn(layers[0].keep.clone(), stacked[0]))
    assert layers[0].effective_weight().data_ptr() != stacked.data_ptr()
    own.release()
    own.prepare(layers[0], Drawn(layers[0].keep, stacked[0]))
    with torch.no_grad():
        layers[0].weight.mul_(2)
    assert layers[0].effective_weight().data_ptr() != stacked.data_ptr()


def test_masked_weights_are_freed_without_the_garbage_collector():
    model = patched()
    layers = layers_of(model)
    inputs = tiny_inputs(model)
    own = bundle_of(layers[0])
    assert own is not None
    gradients(model, inputs)
    gc.collect()
    gc.disable()
    try:
        kept: list[Any] = []
        for update in range(3):
            anneal(model, 0.5, update)
            masked = layers[0].weight.detach() * layers[0].keep
            own.prepare(layers[0], Drawn(layers[0].keep, masked))
            kept += [weakref.ref(masked), weakref.ref(layers[0].keep)]
            del masked
            gradients(model, inputs)
            assert layers[0].weight.grad is not None
        anneal(model, 0.5, 3)
        assert [one() for one in kept] == [None] * 6
    finally:
        gc.enable()


def test_where_nobody_asks_for_them_none_are_made_any_more():
    model = patched()
    layer = layers_of(model)[0]
    own = bundle_of(layer)
    assert own is not None
    gradients(model, tiny_inputs(model))
    drawn = Drawn(layer.keep, layer.weight.detach() * layer.keep)
    own.prepare(layer, drawn)
    assert own.compute == torch.float32
    own.prepare(layer, drawn)
    assert own.compute is None  # which the next masks are drawn by
    own.prepare(layer, Drawn(layer.keep))
    assert not own._ready


@pytest.mark.parametrize("level", ["weight", "unit"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_model_makes_its_own(copied, level):
    model = patched(level=level)
    inputs = tiny_inputs(model)
    model(**inputs)
    other = copied(model)
    assert bundle_of(layers_of(other)[0]) is not bundle_of(layers_of(model)[0])
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2)
    anneal(other, 0.5, 1)
    layer = layers_of(other)[0]
    assert torch.equal(layer.effective_weight(), functional.masked(layer.weight, layer.keep))
    patch = find_patch(other)
    assert patch is not None
    lowest = {id(parameter): part for parameter, part in patch.masks.candidates(0.5)}
    for site in patch.sites:
        assert torch.equal(site.layer.keep, ~lowest[id(site.layer.weight)])


def test_unpatching_unties():
    model = patched()
    layers = layers_of(model)
    unpatch_model(model)
    assert all(bundle_of(layer) is None for layer in layers)


def test_weights_that_are_not_whole_are_masked_one_by_one():
    class Shard(nn.Parameter):
        """Stands for what a sharded model has in place of a weight."""

    model = patched()
    for layer in layers_of(model):
        layer._parameters["weight"] = Shard(layer.weight.detach())
        masked = layer.effective_weight()
        assert torch.equal(masked, functional.masked(layer.weight, layer.keep))


def test_a_replica_on_another_device_masks_its_own_weight():
    layer = layers_of(patched())[0]
    replica = layer._replicate_for_data_parallel()
    replica.weight = (layer.weight * 2).requires_grad_()
    masked = replica.effective_weight()
    assert torch.equal(masked, functional.masked(replica.weight, layer.keep))
    own = bundle_of(replica)
    assert own is not None
    assert not own._made  # nothing for the layers that are not asked for


def test_what_is_pruned_after_a_forward_counts_in_the_next():
    model = patched(level="weight")
    inputs = tiny_inputs(model)
    before = model(**inputs)[0].detach()
    prune_model(model, 0.9)
    assert not torch.equal(model(**inputs)[0], before)


def test_masked_weights_of_a_forward_without_gradients_go_with_the_next_update():
    model = patched(level="weight")
    with torch.no_grad():
        model(**tiny_inputs(model))
    layer = layers_of(model)[0]
    own = bundle_of(layer)
    assert own is not None
    gone = weakref.ref(own.weight_of(layer))
    assert gone() is not None
    anneal(model, 0.5, 1)
    assert gone() is None


@pytest.mark.parametrize("change", ["place", "learns"])
def test_a_weight_that_lies_elsewhere_or_learns_no_more_is_masked_anew(change):
    model = patched(level="weight")
    inputs = tiny_inputs(model)
    model(**inputs)
    layer = layers_of(model)[0]
    made = layer.effective_weight()
    if change == "place":
        layer.weight.data = 2 * layer.weight.data
        assert torch.equal(layer.effective_weight(), 2 * made)
    else:
        layer.weight.requires_grad_(False)
        assert not layer.effective_weight().requires_grad


def test_the_gradient_of_a_plain_sum_of_masked_weights_is_the_mask():
    layer = layers_of(patched(level="weight"))[0]
    layer.effective_weight().sum().backward()
    assert torch.equal(layer.weight.grad, layer.keep.float())


@pytest.mark.parametrize("fused", [True, False])
def test_masked_weights_are_made_anew_after_each_step_of_an_optimiser(fused):
    """Also where a forward came before it, or where they were handed over with the mask."""
    model = patched(level="weight")
    inputs = tiny_inputs(model)
    layer, own = layers_of(model)[0], bundle_of(layers_of(model)[0])
    assert own is not None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    model(**inputs)[0].square().mean().backward()
    model(**inputs)
    optimizer.step()
    assert torch.equal(layer.effective_weight(), functional.masked(layer.weight, layer.keep))
    own.prepare(layer, Drawn(layer.keep, (layer.weight * layer.keep).detach()))
    optimizer.step()
    assert torch.equal(layer.effective_weight(), functional.masked(layer.weight, layer.keep))
