"""An update is its cut-offs: a patched model equals its stock model with masked weights."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.testing import assert_close

from hf_td import Schedule, anneal, functional, kernels, patch_model, read_anatomy, unpatch_model
from hf_td.anatomy import given
from hf_td.functional import DRAW_LEVELS, Cut, Rule
from hf_td.kernels import cpu_masking, cpu_ranking
from hf_td.patching.layers import kept
from hf_td.ranking.activations import INTERVAL
from hf_td.ranking.sites import UnitSite
from tests.experts.mixtures import mixture
from tests.families import family_inputs
from tests.patching.models import (
    HALF,
    a_model,
    assert_same_masks,
    bare,
    every_level,
    gradients,
    logits,
    masks,
    patch_of,
    patched,
    stock_with_masked_weights,
    train_step,
)
from tests.reference import lowest, unit_scores
from tests.tiny import checkpoint_activations, tiny_inputs, tiny_model

WHOLE: dict[str, Any] = {**HALF, "drop_rate": 1.0}
DENSE: dict[str, Any] = {**HALF, "targeting_schedule": Schedule(off=1.0)}
MEASURED: dict[str, Any] = {**HALF, "importance": "activation"}
# The ways to rank and to draw.
WAYS: list[dict[str, Any]] = [
    {"level": "weight"},
    {"level": "unit"},
    {"level": "weight", "importance": "random"},
    {"level": "unit", "importance": "random"},
    {"level": "weight", "pattern": "2:4"},
    {"level": "unit", "draw": "element"},
    {"level": "weight", "importance": "activation"},
]
every_way = pytest.mark.parametrize("way", WAYS, ids=str)
Model = Any
Gradients = dict[str, Tensor]


# --- the slow loops ---


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


def run(model: Model, batches: int = 1, autocast: bool = False) -> tuple[list[Tensor], Gradients]:
    """Return the outputs of `batches` micro-batches in training, and the accumulated gradients."""
    torch.manual_seed(0)
    model.train()
    model.zero_grad()
    inner = bare(model)
    name = inner.main_input_name
    outputs = []
    for number in range(batches):
        inputs = tiny_inputs(inner, 4)
        inputs[name] = inputs[name].roll(number, 1)
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            output = model(**inputs).logits
        output.float().square().mean().backward()
        outputs.append(output.detach())
    return outputs, gradients(model)


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


# --- copies ---


def pickled(model: Model) -> Model:
    return pickle.loads(pickle.dumps(model))


def sums(model: Model) -> list[Tensor]:
    """Return copies of the sum of squares and the number of rows of each site."""
    layers = [site.layer for site in patch_of(model).sites]
    return [
        tensor.clone() for layer in layers for tensor in (layer.input_squares, layer.input_rows)
    ]


def averages(model: Model) -> dict[str, Tensor]:
    activations = patch_of(model).activations
    assert activations is not None
    return activations.mean_squares


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
@pytest.mark.parametrize("importance", ["magnitude", "activation"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "albert"])
@every_level
def test_a_copy_made_within_an_update_continues_like_the_model(family, level, importance, copied):
    settings = {**HALF, "level": level, "importance": importance}
    model, alone = patched(family, **settings), patched(family, **settings)
    for one in (model, alone):
        anneal(one, 1.0, 0)
        run(one)
    other = copied(model)
    assert_same_masks(masks(other), masks(model))
    ends = []
    for one in (alone, other, model):  # the copy continues before the model does
        steps = [run(one, batches=2)]
        optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
        optimizer.step()
        for update in range(1, 3):
            anneal(one, 1.0, update)
            steps.append(run(one))
        ends.append((masks(one), steps, averages(one) if importance == "activation" else {}))
    assert_close(ends[1], ends[0], rtol=0, atol=0)
    assert_close(ends[2], ends[0], rtol=0, atol=0)
    unpatch_model(other)
    assert patch_of(model).dropped_share() > 0


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
@every_level
def test_a_copy_measures_independently(level, copied):
    model = patched("bert", **{**MEASURED, "level": level})
    anneal(model, 1.0, 0)
    run(model)
    other = copied(model)
    before = sums(model)
    assert_close(sums(other), before, rtol=0, atol=0)
    run(other)
    assert_close(sums(model), before, rtol=0, atol=0)
    rows = patch_of(model).sites[0].layer.input_rows
    assert patch_of(other).sites[0].layer.input_rows == 2 * rows
    patch_of(model).update_averages()
    run(model)  # no longer measured, unlike the copy
    assert_close(sums(model), before, rtol=0, atol=0)
    run(other)
    assert patch_of(other).sites[0].layer.input_rows == 3 * rows
    assert averages(model).keys() == {site.name for site in patch_of(model).sites}
    assert not averages(other)
    patch_of(other).update_averages()
    assert_close(averages(other), averages(model))


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("decay", [None, 0.9])
@every_level
def test_an_average_of_the_model_can_be_made_before_the_first_update(level, decay, use_buffers):
    model = patched("llama", **{**MEASURED, "level": level})
    multi = None if decay is None else get_ema_multi_avg_fn(decay)
    averaged = AveragedModel(model, multi_avg_fn=multi, use_buffers=use_buffers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    expected: dict[str, Tensor] = {}
    for update in range(3):
        anneal(model, 1.0, update)
        run(model)
        optimizer.step()
        averaged.update_parameters(model)
        for name, parameter in model.named_parameters():
            share = 1 / (update + 1) if decay is None or update == 0 else 1 - decay
            before = expected.get(name, torch.zeros_like(parameter))
            expected[name] = before + share * (parameter.detach() - before)
    assert_close(dict(averaged.module.named_parameters()), expected)
    stock = tiny_model("llama")
    stock.load_state_dict(averaged.module.state_dict())
    averaged.eval()
    assert torch.equal(averaged.module(**tiny_inputs(stock)).logits, logits(stock))
    unpatch_model(averaged)
    assert patch_of(model).dropped_share() > 0


def shapes_of_buffers(model: Model) -> dict[str, tuple[Any, ...]]:
    return {n: (b.shape, b.stride(), b.dtype, b.device) for n, b in model.named_buffers()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "way", [*WAYS, {"level": "unit", "importance": "activation", "experts_level": "unit"}], ids=str
)
@pytest.mark.parametrize("kind", ["gpt2", "albert", "mixtral"])
def test_the_buffers_of_a_patched_model_stay_the_same_set(kind, way, dtype):
    """What copies a model's buffers can be made at any time: averages, optimisers, wrappers."""
    mixed = kind == "mixtral"
    way = {**way} if mixed else {k: v for k, v in way.items() if k != "experts_level"}
    model = (mixture(kind) if mixed else a_model(kind)).to(dtype)
    model = patch_model(model, **{**HALF, **way, "targeting_schedule": Schedule(off=0.5)})
    averaged, before = AveragedModel(model), shapes_of_buffers(model)
    dense = set()
    for update in range(INTERVAL + 2):
        dense.add(anneal(model.train(), 1.0, update).targeting == 0)
        model(**(family_inputs(model) if mixed else tiny_inputs(model)))[0].sum().backward()
        assert shapes_of_buffers(model) == before
        averaged.update_parameters(model)
    assert dense == {True, False}


# --- memory ---


def storages(tensors: Iterable[Any]) -> dict[int, int]:
    """Return the bytes of the storages of tensors, by address."""
    found = [one.untyped_storage() for one in tensors if isinstance(one, Tensor)]
    return {storage.data_ptr(): storage.nbytes() for storage in found}


@pytest.fixture
def new_objects() -> Iterator[Callable[[], list[Any]]]:
    """Return a function that finds all objects made since the start of the test."""

    def found() -> list[Any]:
        gc.collect()
        return gc.get_objects()

    gc.collect()
    gc.freeze()
    yield found
    gc.unfreeze()


def buffer_bytes(model: nn.Module) -> int:
    return sum(buffer.nbytes for buffer in model.buffers())


@pytest.mark.filterwarnings("ignore")  # from objects that the garbage collector lists
@pytest.mark.parametrize(
    "way",
    [*WAYS, {"level": "unit", "importance": "activation"}],
    ids=str,
)
@pytest.mark.parametrize("kind", ["bert", "gpt2", "experts"])
def test_nothing_of_the_size_of_a_weight_lives_between_updates(kind, way, new_objects):
    if kind == "experts":
        model = mixture("mixtral")
        way = {**way, "experts_level": "none" if way.get("draw") else "unit"}
        way["attention_level"] = "none"  # its weights are as small as the cut-offs of experts
        inputs = family_inputs(model)
    else:
        model = tiny_model(kind)
        inputs = tiny_inputs(model)
    buffers, known = buffer_bytes(model), [*model.buffers(), *inputs.values()]
    patch_model(model, **{**HALF, **way})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for update in range(2):
        anneal(model.train(), 1.0, update)
        model(**inputs).logits.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        weights = [site.layer.weight for site in patch_of(model).sites]
        ranked = [weight for weight in weights if weight.numel() >= 32 * 32]  # no routers
        smallest = min(weight.nbytes for weight in ranked)
        own = storages([*model.parameters(), *known])
        added = [n for where, n in storages(new_objects()).items() if where not in own]
        assert added, "cut-offs"
        assert max(added) < smallest
        assert sum(added) < sum(weight.nbytes for weight in ranked) / 4
        assert buffer_bytes(model) - buffers < sum(weight.nbytes for weight in ranked) / 8


# --- activations ---


def recorded(model: Model, inputs: dict[str, list[Tensor]]) -> list[Any]:
    """Return hooks that record the inputs of each site."""
    return [
        site.layer.register_forward_hook(
            lambda _, args, __, name=site.name: inputs.setdefault(name, []).append(args[0].detach())
        )
        for site in patch_of(model).sites
    ]


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
@every_level
def test_averages_equal_those_of_a_slow_computation(family, level):
    model = patched(family, **{**MEASURED, "level": level})
    expected: dict[str, Tensor] = {}
    for update in range(2 * INTERVAL):
        anneal(model, 1.0, update)
        assert not any(m._forward_pre_hooks for m in model.modules() if m is not model)
        seen: dict[str, list[Tensor]] = {}
        hooks = recorded(model, seen)
        before = sums(model)
        run(model, batches=2)
        for hook in hooks:
            hook.remove()
        if update % INTERVAL:
            assert_close(sums(model), before, rtol=0, atol=0)
            continue
        for name, inputs in seen.items():
            rows = torch.cat([x.reshape(-1, x.shape[-1])[::13] for x in inputs])
            mean = torch.stack([row.square() for row in rows]).sum(0) / len(rows)
            expected[name] = 0.9 * expected[name] + 0.1 * mean if name in expected else mean
    patch_of(model).update_averages()
    assert_close(averages(model), expected)
    assert expected.keys() == {site.name for site in patch_of(model).sites}


# --- a given reading ---


@every_level
def test_a_given_reading_is_used_and_the_model_not_read_again(level, monkeypatch):
    model, twin = tiny_model("bert"), tiny_model("bert")
    anatomy, read = read_anatomy(model), []
    monkeypatch.setattr(
        given, "read_anatomy", lambda *args: read.append(args) or read_anatomy(*args)
    )
    patch_model(model, anatomy=anatomy, level=level, **HALF)
    assert patch_of(model).anatomy is anatomy
    assert not read
    patch_model(twin, level=level, **HALF)
    assert len(read) == 1
    for one in (model, twin):
        anneal(one, 1.0, 0)
    assert_same_masks(masks(model), masks(twin))
    assert len(read) == 1


# --- draws ---


def mixed(word: int, low: int, high: int) -> int:
    """Return `lowbias32` of a word with a key, in plain Python."""
    first, second = functional.MULTIPLIERS
    word ^= low
    word = ((word ^ (word >> 16)) * first) & 0xFFFFFFFF
    word = (((word ^ (word >> 15)) + high) * second) & 0xFFFFFFFF
    return word ^ (word >> 16)


@pytest.mark.parametrize("key", [0, -1, 0x0123456789ABCDEF, -(2**63)])
def test_draws_are_a_function_of_key_and_position(key):
    draw = torch.tensor(functional.draw_of(key, 0))
    found = functional.draws((3, 5, 7), draw)
    low, high = key & 0xFFFFFFFF, (key >> 32) & 0xFFFFFFFF
    for position, value in enumerate(found.flatten().tolist()):
        word = mixed(position // 2, low, high)
        assert value == (word >> 16 if position % 2 else word & 0xFFFF)
    assert torch.equal(functional.draws((105,), draw), found.flatten())
    assert torch.equal(functional.draws((8, 5, 7), draw)[:3], found)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    number = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(number)


@pytest.mark.parametrize("shape", [(33, 21), (64, 32), (4, 9, 15)])
@pytest.mark.parametrize("dim", [-1, -2])
def test_a_mask_does_not_depend_on_blocks_or_threads(shape, dim, threads, monkeypatch):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    rule = Rule(dim % len(shape))
    cutoff = functional.cutoffs(weight.abs(), 0.8, dim)
    draw = functional.draw_of(12345678901234, functional.drop_threshold(0.4))
    cut = Cut(cutoff, torch.tensor(draw))
    expected = functional.masked(weight, cut, rule)
    assert 0.2 < float((expected == 0).float().mean()) < 0.45
    monkeypatch.setattr(cpu_ranking, "_BLOCKS_PER_THREAD", 1)
    for block in (1, 40, 1000, 1 << 17):
        monkeypatch.setattr(cpu_masking, "_BLOCK", block)
        monkeypatch.setattr(cpu_ranking, "_BLOCK", block)
        for number in (1, 3):
            threads(number)
            assert torch.equal(kernels.masked(weight, cut, rule), expected)


@every_way
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_mask_does_not_depend_on_other_layers(family, way):
    every = patched(family, **{**HALF, **way})
    anneal(every, 1.0, 3)
    expected = masks(every)
    for name in list(expected)[:3]:
        some = patched(family, **{**HALF, **way}, include=[name])
        for parameter, other in zip(some.parameters(), every.parameters(), strict=True):
            assert torch.equal(parameter, other)
        anneal(some, 1.0, 3)
        assert_same_masks(masks(some), {name: expected[name]})


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_drop_rate_is_the_share_of_dropped_candidates_and_updates_differ(rate):
    model = patched("bert", drop_rate=rate)
    found = []
    for update in range(10):
        anneal(model, 1.0, update)
        found.append(torch.cat([mask.flatten() for mask in masks(model).values()]))
    dropped = ~torch.stack(found)
    # Half of the weights are candidates; five standard deviations are allowed.
    draws = dropped.numel() / 2
    assert abs(int(dropped.sum()) - rate * draws) < 5 * (draws * rate * (1 - rate)) ** 0.5
    # Two updates drop independently.
    both = (dropped[0] & dropped[1]).sum() / (dropped.shape[1] / 2)
    assert float(both) == pytest.approx(rate**2, abs=0.03)
    neighbours = (dropped[:, ::2] & dropped[:, 1::2]).float().mean()
    assert float(neighbours) == pytest.approx((rate / 2) ** 2, abs=0.02)


def test_the_rates_0_and_1_are_exact():
    shape = (1000,)
    for rate, expected in ((0.0, 0.0), (1.0, 1.0)):
        threshold = functional.drop_threshold(rate)
        draw = torch.tensor(functional.draw_of(7, threshold))
        assert float(functional.is_drawn(shape, draw).float().mean()) == expected
    assert functional.drop_threshold(1.0) == DRAW_LEVELS


def test_the_dropped_share_equals_the_share_in_the_masks():
    model = patched("bert")
    anneal(model, 1.0, 0)
    train_step(model)
    sites = patch_of(model).sites
    dropped = sum(int((~kept(site.layer)).sum()) for site in sites)
    share = dropped / sum(site.size for site in sites)
    assert patch_of(model).dropped_share() == pytest.approx(share)
