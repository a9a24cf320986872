"""Whole layers as units of targeted dropout, from patching to the stock export."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hf_td import (
    TargetedDropoutConfig,
    anneal,
    compact_model,
    patch_model,
    prune_model,
    pruning_curve,
    read_anatomy,
    unpatch_model,
)
from hf_td.analysis import measure_dependence
from hf_td.anatomy import read_stacks
from hf_td.hub import export_model, load_archived_model
from hf_td.modules.passing import passed_layers
from hf_td.patching.patch import find_patch
from hf_td.pruning import pruned
from hf_td.ranking.activations import INTERVAL, find_activations, save_activations
from tests.deep import LAYERS, deep_family
from tests.families import family_inputs, family_outputs
from tests.tiny import checkpoint_activations

# An encoder, three decoders (one of experts), encoder-decoders, vision, two towers, speech.
ROW = (
    "bert distilbert deberta_v2 modernbert gpt2 llama gemma2 falcon qwen3_moe t5 bart whisper vit "
    "dinov2 clip wav2vec2"
).split()
row = pytest.mark.parametrize("name", ROW)
UPDATES = INTERVAL + 3  # two of them are measured
CONSTANT: dict[str, Any] = {"targeting_schedule": "constant", "drop_rate_schedule": "constant"}
LAYERS_ALONE: dict[str, Any] = {
    "level": "unit",
    "attention_level": "none",
    "feed_forward_level": "none",
    "layers_level": "unit",
    "targeting": 0.5,
    **CONSTANT,
}
FEED_FORWARD_TOO: dict[str, Any] = {**LAYERS_ALONE, "feed_forward_level": "unit"}


def stack_sites(model: Any) -> list[Any]:
    patch = find_patch(model)
    assert patch is not None
    return [site for site in patch.sites if site.kind == "layer"]


def dropped(model: Any) -> dict[str, list[int]]:
    """Return the indices of the layers that the current update drops, by stack."""
    masks = {site.name: site.layer.module.dropped() for site in stack_sites(model)}
    return {name: mask.nonzero().flatten().tolist() for name, mask in masks.items()}


def layers_of(model: Any) -> dict[str, Any]:
    return {stack.name: model.get_submodule(stack.name) for stack in read_stacks(model)}


def train(model: Any, first: int, last: int) -> list[dict[str, list[int]]]:
    """Make the updates `first` to `last - 1`, each of which depends only on its number."""
    optimizer, seen = torch.optim.SGD(model.parameters(), lr=0.01), []
    for update in range(first, last):
        torch.manual_seed(update)  # of the model's own dropout
        anneal(model.train(), progress=update / UPDATES, update=update)
        seen.append(dropped(model))
        model(**family_inputs(model))[0].square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    return seen


def assert_same(model: Any, expected: dict[str, Tensor]) -> None:
    for key, value in family_outputs(model).items():
        assert_close(value, expected[key], rtol=1e-4, atol=1e-4)


@row
def test_trained_pruned_compacted_exported_and_reloaded(name, tmp_path):
    model = patch_model(deep_family(name), **LAYERS_ALONE)
    seen = train(model, 0, UPDATES)
    assert all(len(layers) == 2 for update in seen for layers in update.values())
    report = prune_model(model, 0.5)
    counts = [(b.removed, b.total) for b in report.blocks if b.part == "layers"]
    assert counts == [(2, LAYERS)] * len(read_stacks(model))
    expected = family_outputs(model)
    done = export_model(model, tmp_path / "x", check=False)
    assert done.form == "stock"
    assert_same(type(model).from_pretrained(done.folder), expected)
    compact_model(model)
    assert_same(model, expected)
    assert not any(type(m).__module__.startswith("hf_td") for m in model.modules())
    assert all(stack.units == LAYERS - 2 for stack in read_stacks(model))
    model.save_pretrained(tmp_path / "c")
    assert_same(type(model).from_pretrained(tmp_path / "c"), expected)


@pytest.mark.parametrize("name", ["bert", "llama", "t5", "vit"])
def test_heads_neurons_and_layers_train_together(name, tmp_path):
    settings = {"level": "unit", "layers_level": "unit", "targeting": 0.5, **CONSTANT}
    model = patch_model(deep_family(name), **settings)
    train(model, 0, UPDATES)
    report = prune_model(model, {"attention": 0.5, "feed_forward": 0.5, "layers": 0.25})
    assert {b.part for b in report.blocks} == {"attention", "feed_forward", "layers"}
    expected = family_outputs(model)
    done = export_model(model, tmp_path / "x", check=False)
    assert_same(type(model).from_pretrained(done.folder), expected)
    compact_model(model)
    assert_same(model, expected)
    assert all(stack.units == LAYERS - 1 for stack in read_stacks(model))


def test_an_export_is_verified_in_a_fresh_process(tmp_path):
    model = deep_family("bert")
    prune_model(model, 0.5, **LAYERS_ALONE)
    assert export_model(model, tmp_path / "x").ways == ("stock",)


@row
def test_a_resumed_run_is_an_uninterrupted_one(name, tmp_path):
    settings = {**LAYERS_ALONE, "drop_rate": 0.6}
    model = patch_model(deep_family(name), **settings)
    train(model, 0, INTERVAL + 1)
    resumed = patch_model(deep_family(name, seed=1), **settings)
    resumed.load_state_dict(model.state_dict())
    patch, again = find_patch(model), find_patch(resumed)
    assert patch is not None
    assert again is not None
    patch.update_averages()
    save_activations(model, tmp_path)
    assert again.resume(tmp_path)
    assert train(model, INTERVAL + 1, UPDATES) == train(resumed, INTERVAL + 1, UPDATES)
    left, right = model.state_dict(), resumed.state_dict()
    assert all(torch.equal(value, right[key]) for key, value in left.items())


@pytest.mark.parametrize("name", ["bert", "llama", "t5", "vit"])
def test_checkpointed_activations_change_nothing(name):
    plain, recomputed = (patch_model(deep_family(name), **LAYERS_ALONE) for _ in range(2))
    checkpoint_activations(recomputed, use_reentrant=False)
    assert train(plain, 0, UPDATES) == train(recomputed, 0, UPDATES)
    for key, value in plain.state_dict().items():
        assert torch.equal(value, recomputed.state_dict()[key]), key


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5", "clip"])
def test_a_dropped_layer_is_a_missing_layer(name):
    """In training, the outputs of an update are those of a model without its dropped layers."""
    model = deep_family(name)
    every: list[Any] = list(model.modules())
    for module in every:
        if isinstance(getattr(module, "dropout", None), float):  # of the attention of T5
            module.dropout = 0.0
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    other = copy.deepcopy(model)
    patch_model(model, importance="magnitude", **LAYERS_ALONE)
    anneal(model.train(), progress=1.0, update=0)
    prune_model(other, 0.5, importance="magnitude", **LAYERS_ALONE)
    assert passed_layers(other) == [f"{n}.{i}" for n, some in dropped(model).items() for i in some]
    compact_model(other)
    inputs = family_inputs(model)
    assert_close(model(**inputs)[0], other(**inputs)[0], rtol=1e-4, atol=1e-4)


@row
def test_a_dropped_layer_gets_no_gradient(name):
    model = patch_model(deep_family(name), **LAYERS_ALONE)
    anneal(model.train(), progress=1.0, update=0)
    torch.manual_seed(0)
    model(**family_inputs(model))[0].square().mean().backward()
    gone = dropped(model)
    for stack, layers in layers_of(model).items():
        for index, layer in enumerate(layers):
            moved = [p for p in layer.parameters() if p.grad is not None and p.grad.any()]
            assert bool(moved) == (index not in gone[stack])


@row
def test_the_stock_model_comes_back(name):
    model = deep_family(name)
    expected = family_outputs(model)
    classes = {key: type(module) for key, module in model.named_modules()}
    attributes = {key: vars(module).keys() for key, module in model.named_modules()}
    parameters = dict(model.named_parameters())
    patch_model(model, **LAYERS_ALONE)
    anneal(model, progress=1.0, update=0)
    for key, value in family_outputs(model).items():  # eval mode has every layer
        assert torch.equal(value, expected[key])
    unpatch_model(model)
    assert {key: type(module) for key, module in model.named_modules()} == classes
    assert {key: vars(module).keys() for key, module in model.named_modules()} == attributes
    assert all(parameter is parameters[key] for key, parameter in model.named_parameters())


def test_dense_updates_drop_nothing_and_draws_are_of_the_update():
    settings = {**LAYERS_ALONE, "targeting": 0.75, "drop_rate": 0.5}
    settings["targeting_schedule"] = {"shape": "constant", "off": 0.4}
    model, again = (patch_model(deep_family("bert"), **settings) for _ in range(2))
    seen = []
    for update in range(40):
        rates = anneal(model, progress=1.0, update=update)
        anneal(again, progress=1.0, update=update)
        assert dropped(model) == dropped(again)
        (layers,) = dropped(model).values()
        assert rates.targeting or not layers
        seen.append(tuple(layers))
    assert len(set(seen)) > 3
    assert {index for layers in seen for index in layers} < set(range(LAYERS))


def test_a_dropped_layer_is_measured_and_can_come_back():
    model = patch_model(deep_family("bert"), **LAYERS_ALONE)
    seen = train(model, 0, 1)
    patch = find_patch(model)
    assert patch is not None
    patch.update_averages()
    measured = find_activations(model)
    assert measured is not None
    ((name, change),) = measured.mean_squares.items()
    assert name == "bert.encoder.layer"
    assert change.shape == (LAYERS,)
    assert len(seen[0][name]) == 2
    assert (change > 0.01).all()


def test_the_measure_is_one_minus_the_cosine():
    model: Any = patch_model(deep_family("llama"), **LAYERS_ALONE, drop_rate=0.0)
    rows: dict[int, tuple[Tensor, Tensor]] = {}
    hooks = [
        layer.register_forward_hook(
            lambda _, args, out, index=index: rows.__setitem__(index, (args[0], out))
        )
        for index, layer in enumerate(model.model.layers)
    ]
    anneal(model.train(), progress=0.0, update=0)
    model(**family_inputs(model))
    for hook in hooks:
        hook.remove()
    patch = find_patch(model)
    assert patch is not None
    patch.update_averages()
    measured = find_activations(model)
    assert measured is not None
    for index, (before, after) in rows.items():
        before, after = (one.detach().flatten(0, -2)[::13] for one in (before, after))
        cosine = (before * after).sum(-1) / (before.norm(dim=-1) * after.norm(dim=-1))
        assert_close(measured.mean_squares["model.layers"][index], (1 - cosine).mean())


def test_the_layers_that_change_least_are_pruned_by_calibration():
    model: Any = deep_family("llama")
    with torch.no_grad():
        for linear in (model.model.layers[2].self_attn.o_proj, model.model.layers[2].mlp.down_proj):
            linear.weight *= 0.01  # the norm of all of its weights stays above that of layer 1
        for parameter in model.model.layers[1].parameters():
            if parameter.dim() > 1:
                parameter *= 0.8
    by_norm, by_change = copy.deepcopy(model), model
    prune_model(by_norm, 0.25, importance="magnitude", **LAYERS_ALONE)
    batches = [family_inputs(model)]
    prune_model(by_change, 0.25, importance="activation", calibration=batches, **LAYERS_ALONE)
    assert passed_layers(by_norm) == ["model.layers.1"]
    assert passed_layers(by_change) == ["model.layers.2"]


def test_a_pruned_layer_of_a_patched_model_stays_pruned():
    model = patch_model(deep_family("bert"), **LAYERS_ALONE)
    train(model, 0, 1)
    prune_model(model, 0.25)
    (gone,) = passed_layers(model)
    seen = train(model, 1, UPDATES)
    index = int(gone.rpartition(".")[2])
    assert all(index in update["bert.encoder.layer"] for update in seen)
    expected = family_outputs(model)
    unpatch_model(model)
    assert passed_layers(model) == [gone]
    assert_same(model, expected)


def test_a_copy_and_a_pickle_are_targeted_alike():
    model = patch_model(deep_family("bert"), **LAYERS_ALONE)
    anneal(model.train(), progress=1.0, update=0)
    copies: Any = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    inputs = family_inputs(model)
    torch.manual_seed(0)
    expected = model(**inputs)[0]
    for one in copies:
        layers = one.bert.encoder.layer
        assert layers[0].stack[0] is layers
        torch.manual_seed(0)
        assert torch.equal(one(**inputs)[0], expected)


@pytest.mark.parametrize("name", ["t5", "modernbert"])
def test_layers_that_have_to_stay_are_never_dropped(name):
    model = patch_model(deep_family(name), **{**LAYERS_ALONE, "targeting": 0.99})
    for update in range(3):
        anneal(model, progress=1.0, update=update)
        assert set(map(tuple, dropped(model).values())) == {(1, 2, 3)}
    prune_model(model, 1.0)
    assert all(not name.endswith(".0") for name in passed_layers(model))
    compact_model(model)
    assert all(len(layers) == 1 for layers in layers_of(model).values())


def test_one_layer_stays_and_then_nothing_is_left_to_drop():
    model = deep_family("bert")
    prune_model(model, 1.0, **LAYERS_ALONE)
    compact_model(model)
    (stack,) = read_stacks(model)
    assert stack.units == 1
    with pytest.raises(ValueError, match="nothing to target"):
        patch_model(model, **LAYERS_ALONE)
    settings = {"level": "unit", "layers_level": "unit", **CONSTANT}
    assert {site.kind for site in find_patch(patch_model(model, **settings)).sites} == {"unit"}  # pyright: ignore[reportOptionalMemberAccess]


def test_selected_layers_and_stacks_alone_are_candidates():
    model = patch_model(deep_family("bert"), **LAYERS_ALONE, layers=(1, 3))
    anneal(model, progress=1.0, update=0)
    assert dropped(model) == {"bert.encoder.layer": [1, 3]}
    model = patch_model(deep_family("bart"), **LAYERS_ALONE, exclude=("*.encoder.layers",))
    assert [site.name for site in stack_sites(model)] == ["model.decoder.layers"]


@pytest.mark.parametrize("name", ["albert", "swin"])
def test_refused_layers_are_named(name):
    model = deep_family(name)
    (stack,) = read_stacks(model)
    settings = {**LAYERS_ALONE, "feed_forward_level": "unit"}
    for act in (patch_model, lambda one, **s: prune_model(one, 0.5, **s)):
        with pytest.raises(ValueError, match=f"layers of {stack.name} cannot be dropped") as caught:
            act(model, **settings)
        assert str(stack.obstacle) in str(caught.value)
        assert f"exclude=['{stack.name}']" in str(caught.value)
    patch_model(model, **settings, exclude=(stack.name,))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers_level": "weight"}, "layers_level"),
        ({"layers_level": "unit", "draw": "element"}, "layers_level='unit' needs draw='unit'"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TargetedDropoutConfig(level="unit", **settings)


def test_gradients_cannot_rank_layers():
    model = deep_family("bert")
    batches = [{**family_inputs(model), "labels": torch.tensor([0, 1])}]
    with pytest.raises(ValueError, match="importance 'taylor' cannot rank the layers of bert"):
        prune_model(model, 0.5, importance="taylor", calibration=batches, **LAYERS_ALONE)


def test_a_global_budget_does_not_count_layers_twice():
    model = deep_family("bert")
    with pytest.raises(ValueError, match=r"would count bert\.encoder\.layer\.0\..* twice"):
        prune_model(model, 0.5, budget="global", level="unit", layers_level="unit")
    prune_model(model, 0.5, budget="global", **LAYERS_ALONE)
    assert len(passed_layers(model)) == 2


def test_pruning_for_a_while_puts_the_layers_back():
    model = deep_family("bert")
    expected, classes = family_outputs(model), [type(m) for m in model.modules()]
    with pruned(model, 0.5, **LAYERS_ALONE):
        assert len(passed_layers(model)) == 2
        assert not torch.equal(family_outputs(model)["output"], expected["output"])
    assert [type(m) for m in model.modules()] == classes
    assert torch.equal(family_outputs(model)["output"], expected["output"])


def test_a_curve_goes_over_sparsities_of_layers():
    model = deep_family("bert")
    dense = family_outputs(model)["output"]

    def moved(one: Any) -> float:
        return float((family_outputs(one)["output"] - dense).abs().max())

    points = pruning_curve(model, [0.0, 0.25, 0.75], moved, **LAYERS_ALONE)
    shares = [point.removed_prunable for point in points]
    assert shares == pytest.approx([0.0, 0.25, 0.75], abs=1e-3)
    first, *others = (next(iter(point.metrics.values())) for point in points)
    assert first == 0
    assert all(value > 0.01 for value in others)
    assert not passed_layers(model)


def test_dependence_is_not_measured_on_layers():
    model = deep_family("bert")
    batch = {**family_inputs(model), "labels": torch.tensor([0, 1])}
    with pytest.raises(ValueError, match="their loss cannot be predicted from derivatives"):
        measure_dependence(model, 0.5, [batch], **LAYERS_ALONE)


@pytest.mark.parametrize("form", ["archive", "padded", "compact"])
def test_every_form_holds_a_model_without_its_pruned_layers(form, tmp_path):
    model = deep_family("bert")
    prune_model(model, {"layers": 0.5, "feed_forward": 0.5}, **FEED_FORWARD_TOO)
    expected = family_outputs(model)
    done = export_model(model, tmp_path / "x", form=form, check=False)
    load = load_archived_model if form == "archive" else type(model).from_pretrained
    again = load(done.folder)
    assert [stack.units for stack in read_stacks(again)] == [LAYERS // 2]
    assert_same(again, expected)


def test_a_forward_that_was_replaced_is_refused():
    model: Any = deep_family("bert")
    layer = model.bert.encoder.layer[1]
    layer.forward = layer.forward  # as hooks of a device map do
    (stack,) = read_stacks(model)
    assert "the forward of its layers was replaced" in str(stack.obstacle)


def test_activations_follow_the_layers_that_stay():
    model = patch_model(deep_family("bert"), **FEED_FORWARD_TOO)
    train(model, 0, 2)  # the second update adds what the first one measured
    prune_model(model, {"layers": 0.25, "feed_forward": 0.0})
    (gone,) = passed_layers(model)
    index = int(gone.rpartition(".")[2])
    measured = find_activations(model)
    assert measured is not None
    before = dict(measured.mean_squares)
    compact_model(model)
    after = find_activations(model)
    assert after is not None
    names = [b.consumer.module for b in read_anatomy(model).blocks if b.part == "feed_forward"]
    assert after.names() == set(names)
    for place, name in enumerate(names):
        old = name.replace(f"layer.{place}.", f"layer.{place + (place >= index)}.")
        assert torch.equal(after.mean_squares[name], before[old])
