"""Dropout of whole experts, by their router, while a mixture trains."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hf_td import (
    TargetedDropoutArguments,
    TargetedDropoutConfig,
    anneal,
    compact_model,
    patch_model,
    prune_model,
    unpatch_model,
)
from hf_td.hub import export_model
from hf_td.patching.layers import kept
from hf_td.ranking.activations import save_activations
from hf_td.ranking.sites import ExpertSite
from tests.experts.mixtures import (
    CHOSEN,
    EXPERTS,
    ONLY,
    RATES,
    every_family,
    every_way,
    kept_now,
    left_in,
    logits,
    mixture,
    norms_of,
    patch_of,
    routers_of,
    train,
    without,
)
from tests.families import family_inputs


@every_family
@every_way
def test_training_computes_what_a_model_without_the_dropped_experts_does(family, way):
    model = patch_model(mixture(family), **ONLY, **RATES)
    model.set_experts_implementation(way)
    anneal(model, progress=1.0, update=3)
    kept = kept_now(model)
    for chosen, norms in zip(kept, norms_of(model), strict=True):
        assert sorted(norms.topk(4).indices.tolist()) == chosen
    by_hand = without(unpatch_model(copy.deepcopy(model)), kept)
    by_hand.set_experts_implementation(way)
    outputs = [logits(m.train()) for m in (model, by_hand)]
    assert_close(*outputs)
    for output in outputs:
        output.square().sum().backward()
    for layer, small, chosen in zip(model.model.layers, by_hand.model.layers, kept, strict=True):
        own, other = dict(layer.mlp.named_parameters()), dict(small.mlp.named_parameters())
        assert own.keys() == other.keys()
        dropped = sorted({*range(EXPERTS)} - {*chosen})
        for name, parameter in own.items():
            assert parameter.grad is not None
            assert_close(parameter.grad[chosen], other[name].grad)
            assert (parameter.grad[dropped] == 0).all()


@every_family
def test_a_dropped_expert_is_never_chosen_and_the_weights_add_up(family):
    model = patch_model(mixture(family), **ONLY, **RATES).train()
    anneal(model, progress=1.0, update=0)
    router, kept = routers_of(model)[0], kept_now(model)[0]
    raw, weights, index = router(torch.randn(200, 32))
    assert set(index.flatten().tolist()) == set(kept)
    assert index.shape == (200, CHOSEN)
    assert (raw.isinf().sum(1) == EXPERTS - len(kept)).all()
    if family != "qwen3_moe":  # whose weights are shares of all, unless norm_topk_prob
        assert_close(weights.sum(1), torch.ones(200))


@every_family
def test_the_share_that_is_dropped_is_the_expected_one(family):
    model = patch_model(mixture(family), **ONLY, **{**RATES, "drop_rate": 0.4})
    dropped = torch.zeros(2, EXPERTS)
    updates = 400
    for update in range(updates):
        anneal(model, progress=1.0, update=update)
        dropped += torch.stack([~kept(site.layer) for site in patch_of(model).sites]).float()
    for share, norms in zip(dropped / updates, norms_of(model), strict=True):
        low = norms.argsort()[: EXPERTS // 2]
        assert_close(share[low], torch.full((4,), 0.4), atol=0.08, rtol=0)
        assert set(share.nonzero()[:, 0].tolist()) == set(low.tolist())
    assert patch_of(model).dropped_share() in [n / 16 for n in range(9)]


def test_a_mask_is_a_function_of_seed_update_and_layer():
    def masks(update: int, **settings: Any) -> list[list[int]]:
        model = patch_model(mixture("mixtral"), **ONLY, **{**RATES, "drop_rate": 0.5, **settings})
        anneal(model, progress=1.0, update=update)
        return kept_now(model)

    assert masks(5) == masks(5)
    assert len({repr(masks(update)) for update in range(6)}) > 1
    assert len({repr(masks(5, seed=seed)) for seed in range(6)}) > 1


@every_family
def test_as_many_stay_as_each_token_goes_to(family):
    model = patch_model(mixture(family), **ONLY, **{**RATES, "targeting": 0.99})
    anneal(model, progress=1.0, update=0)
    assert [len(kept) for kept in kept_now(model)] == [CHOSEN] * 2
    assert logits(model.train()).isfinite().all()
    unpatch_model(model)
    prune_model(model, 1.0, importance="magnitude", **ONLY)
    assert [len(kept) for kept in left_in(model)] == [CHOSEN] * 2


@every_family
def test_eval_is_the_stock_model_and_it_comes_back(family):
    model = mixture(family)
    expected, classes = logits(model), [type(router) for router in routers_of(model)]
    parameters = dict(model.named_parameters())
    patch_model(model, **ONLY, **RATES)
    anneal(model, progress=1.0, update=0)
    assert torch.equal(logits(model.eval()), expected)
    assert not torch.equal(logits(model.train()), expected)
    unpatch_model(model)
    assert [type(router) for router in routers_of(model)] == classes
    assert all(p is parameters[name] for name, p in model.named_parameters())
    assert not any("cutoff" in name for name, _ in model.named_buffers())


@every_family
@pytest.mark.parametrize("importance", ["magnitude", "activation", "random"])
def test_a_resumed_run_is_an_uninterrupted_one(family, importance, tmp_path):
    settings = {**ONLY, **RATES, "drop_rate": 0.6, "importance": importance, "level": "unit"}
    settings["feed_forward_level"] = "unit"
    model = patch_model(mixture(family), **settings)
    train(model, 0, 2)
    resumed = patch_model(mixture(family, seed=1), **settings)
    resumed.load_state_dict(model.state_dict())
    patch_of(model).update_averages()
    save_activations(model, tmp_path)
    patch_of(resumed).resume(tmp_path)
    train(model, 2, 4)
    train(resumed, 2, 4)
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@every_family
def test_importance_by_activation_is_the_weight_that_the_router_gives(family):
    model = mixture(family)
    batches = [{"input_ids": torch.randint(3, 64, (3, 9))} for _ in range(2)]
    given: list[list[Tensor]] = [[], []]
    hooks = [
        router.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out[1:]))
        for router, seen in zip(routers_of(model), given, strict=True)
    ]
    with torch.no_grad():
        for batch in batches:
            model(**batch)
    for hook in hooks:
        hook.remove()
    scores = []
    for norms, outputs in zip(norms_of(model), given, strict=True):
        squares = torch.zeros(EXPERTS)
        for weights, index in outputs:
            for row, numbers in zip(weights, index, strict=True):
                for weight, number in zip(row, numbers, strict=True):
                    squares[number] += weight**2
        scores.append(norms * (squares / 54).sqrt())
    prune_model(model, 0.5, importance="activation", calibration=batches, **ONLY)
    assert left_in(model) == [sorted(score.topk(4).indices.tolist()) for score in scores]


def test_training_measures_what_the_router_would_give_without_dropping():
    model = patch_model(mixture("mixtral"), **ONLY, **{**RATES, "importance": "activation"})
    stock = mixture("mixtral").eval()
    given: list[Tensor] = []
    hook = routers_of(stock)[0].register_forward_hook(lambda _, __, out: given.extend(out[1:]))
    stock(**family_inputs(stock))
    hook.remove()
    anneal(model, progress=1.0, update=0)
    logits(model.train())
    patch_of(model).update_averages()
    spread = torch.zeros(14, EXPERTS).scatter(1, given[1], given[0])
    activations = patch_of(model).activations
    assert activations is not None
    assert_close(
        activations.mean_squares["model.layers.0.mlp.gate"], spread.square().mean(0).detach()
    )


def test_the_loss_that_balances_the_load_stays_finite():
    model = patch_model(mixture("mixtral"), **ONLY, **RATES).train()
    anneal(model, progress=1.0, update=0)
    inputs = family_inputs(model)
    output = model(**inputs, labels=inputs["input_ids"], output_router_logits=True)
    assert len(output.router_logits) == 2
    assert output.router_logits[0].shape == (14, EXPERTS)
    output.loss.backward()
    assert output.aux_loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_the_loss_that_balances_the_load_needs_the_number_in_the_config(tmp_path):
    model = mixture("mixtral")
    prune_model(model, 0.5, importance="magnitude", **ONLY)
    done = export_model(model, tmp_path / "x", check=False)
    asked = {**family_inputs(model), "output_router_logits": True}
    stock = type(model).from_pretrained(done.folder)(**asked, labels=asked["input_ids"])
    assert stock.aux_loss.isfinite()
    assert model(**asked, labels=asked["input_ids"]).aux_loss.isfinite()
    compact_model(model)
    with pytest.raises(RuntimeError, match="must match the size"):
        model(**asked, labels=asked["input_ids"])


def test_a_compiled_model_sees_every_mask_and_is_compiled_once():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = patch_model(mixture("mixtral"), **ONLY, **{**RATES, "drop_rate": 0.5}).train()
    compiled = torch.compile(model, backend="aot_eager")
    for update in range(3):
        anneal(model, progress=1.0, update=update)
        assert_close(logits(compiled), logits(model))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_patterns_and_layers_select_routers():
    model = patch_model(mixture("mixtral"), **ONLY, **RATES, layers=[1])
    assert [site.name for site in patch_of(model).sites] == ["model.layers.1.mlp.gate"]
    assert isinstance(patch_of(model).sites[0], ExpertSite)
    unpatch_model(model)
    patch_model(model, level="unit", experts_level="unit", include=["*.mlp.gate"], **RATES)
    assert [site.name for site in patch_of(model).sites] == [
        "model.layers.0.mlp.gate",
        "model.layers.1.mlp.gate",
    ]


def test_masks_of_other_sites_do_not_depend_on_it():
    def masks(**settings: Any) -> list[Tensor]:
        rates = {**RATES, "drop_rate": 0.5}
        model = patch_model(mixture("mixtral"), level="unit", **rates, **settings)
        anneal(model, progress=1.0, update=2)
        return [kept(s.layer) for s in patch_of(model).sites if not isinstance(s, ExpertSite)]

    assert all(map(torch.equal, masks(), masks(experts_level="unit")))


def test_the_setting_goes_through_json_and_arguments():
    config = TargetedDropoutConfig(experts_level="unit")
    assert TargetedDropoutConfig.from_json(config.to_json()) == config
    assert TargetedDropoutConfig().level_of("experts") == "none"
    arguments = TargetedDropoutArguments(experts_level="unit", report_to="none")
    assert arguments.targeted_dropout().experts_level == "unit"


@every_family
def test_a_dense_update_drops_no_expert_whatever_the_update_before_dropped(family):
    model = patch_model(mixture(family), **ONLY, **RATES)
    anneal(model, progress=1.0, update=3)
    assert all(len(chosen) < EXPERTS for chosen in kept_now(model))
    dense = patch_of(model)
    dense.config = TargetedDropoutConfig(**{**dense.config.to_dict(), "drop_rate": 0.0})
    anneal(model, progress=1.0, update=4)
    assert kept_now(model) == [list(range(EXPERTS))] * len(routers_of(model))
    stock = unpatch_model(copy.deepcopy(model))
    assert_close(logits(model.train()), logits(stock.train()))
