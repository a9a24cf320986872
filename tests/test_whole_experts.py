"""Whole experts of mixtures: dropped by their router, pruned, taken out, exported and reloaded."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor
from torch.testing import assert_close
from transformers import PreTrainedModel

from hf_td import (
    TargetedDropoutArguments,
    TargetedDropoutConfig,
    anneal,
    compact_model,
    patch_model,
    prune_model,
    pruning_curve,
    read_anatomy,
    unpatch_model,
)
from hf_td.activations import save_activations
from hf_td.baselines import L1, attach_baseline
from hf_td.compaction import compact, layout_of_model
from hf_td.hub import export_model, load_archived_model
from hf_td.patching import Patch, find_patch
from hf_td.routing import gone_experts, marked_routers
from hf_td.sites import ExpertSite
from tests.families import family_inputs, family_outputs, tiny_family

every_family = pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "gpt_oss"])
every_way = pytest.mark.parametrize("way", ["eager", "grouped_mm", "batched_mm"])
EXPERTS = 8
CHOSEN = 2
ONLY: dict[str, Any] = {
    "attention_level": "none",
    "feed_forward_level": "none",
    "experts_level": "unit",
}
RATES: dict[str, Any] = {
    "targeting": 0.5,
    "drop_rate": 1.0,
    "targeting_schedule": "constant",
    "importance": "magnitude",
}


def mixture(family: str, seed: int = 0, experts: int = EXPERTS) -> Any:
    """A tiny random model with so many experts in each layer, of different norms."""
    like = tiny_family(family)
    return built(like, experts, seed)


def built(like: Any, experts: int, seed: int = 0) -> Any:
    """A model of the same class and sizes with another number of experts."""
    config = copy.deepcopy(like.config)
    setattr(config, field_of(config), experts)
    torch.manual_seed(seed)
    model = type(like)(config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.experts.down_proj *= torch.rand(experts, 1, 1) + 0.5
            router_of(layer).weight.normal_()
    return model.eval()


def field_of(config: Any) -> str:
    """The field of a stock config that has the number of experts."""
    names = config.to_dict()
    return "num_experts" if "num_experts" in names else "num_local_experts"


def router_of(layer: Any) -> Any:
    """The router of a layer of the model."""
    return getattr(layer.mlp, "gate", None) or layer.mlp.router


def routers_of(model: Any) -> list[Any]:
    return [router_of(layer) for layer in model.model.layers]


def without(model: Any, kept: list[list[int]]) -> Any:
    """A stock model that is built with only these experts of each layer."""
    small = built(model, len(kept[0]))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for number, chosen in enumerate(kept):
        for name, value in state.items():
            inside = (f"layers.{number}.mlp.gate", f"layers.{number}.mlp.router")
            if any(part in name for part in (*inside, f"layers.{number}.mlp.experts")):
                state[name] = value[chosen]
    small.load_state_dict(state)
    return small


def patch_of(model: Any) -> Patch:
    patch = find_patch(model)
    assert patch is not None
    return patch


def kept_now(model: Any) -> list[list[int]]:
    """Which experts the current update keeps, by layer."""
    return [site.layer.keep.nonzero()[:, 0].tolist() for site in patch_of(model).sites]


def left_in(model: Any) -> list[list[int]]:
    """Which experts pruning left in, by layer."""
    return [(~gone_experts(router)).nonzero()[:, 0].tolist() for router in routers_of(model)]


def norms_of(model: Any) -> list[Tensor]:
    """`(experts,)` for each layer, computed parameter by parameter."""
    found = []
    for layer in model.model.layers:
        stacks = (layer.mlp.experts.gate_up_proj, layer.mlp.experts.down_proj)
        numbers = range(len(stacks[0]))
        found.append(
            torch.stack([torch.cat([s[e].flatten() for s in stacks]).norm() for e in numbers])
        )
    return found


def logits(model: Any) -> Tensor:
    return model(**family_inputs(model))[0]


def assert_same(model: Any, expected: dict[str, Tensor]) -> None:
    for key, value in family_outputs(model).items():
        assert_close(value, expected[key], rtol=1e-5, atol=1e-5)


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
        dropped += torch.stack([~site.layer.keep for site in patch_of(model).sites]).float()
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
    assert not any("keep" in name for name, _ in model.named_buffers())


def train(model: Any, first: int, last: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for update in range(first, last):
        anneal(model.train(), progress=update / 4, update=update)
        optimizer.state.clear()  # a moment would need a checkpoint of its own
        logits(model).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@every_family
@pytest.mark.parametrize("importance", ["magnitude", "activation", "random"])
def test_a_resumed_run_is_an_uninterrupted_one(family, importance, tmp_path):
    settings = {**ONLY, **RATES, "drop_rate": 0.6, "importance": importance, "level": "unit"}
    settings["feed_forward_level"] = "unit"
    model = patch_model(mixture(family), **settings)
    train(model, 0, 2)
    resumed = patch_model(mixture(family, seed=1), **settings)
    resumed.load_state_dict(model.state_dict())
    patch_of(model).settle_activations()
    save_activations(model, tmp_path)
    patch_of(resumed).resume(tmp_path)
    train(model, 2, 4)
    train(resumed, 2, 4)
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@every_family
def test_what_is_pruned_computes_what_a_model_without_it_does(family, tmp_path):
    model = mixture(family)
    norms = norms_of(model)
    dense = copy.deepcopy(model)
    report = prune_model(model, 0.5, importance="magnitude", **ONLY)
    kept = left_in(model)
    assert kept == [sorted(norm.topk(4).indices.tolist()) for norm in norms]
    removed = {block.name: (block.removed, block.total) for block in report.blocks}
    assert removed["model.layers.1.mlp"] == (4, EXPERTS)
    expected = family_outputs(without(dense, kept))
    assert_same(model, expected)
    assert_same(patch_model(copy.deepcopy(model), **ONLY, **RATES), expected)
    assert_same(exported(model, tmp_path / "masked", expected), expected)
    compact_model(model)
    assert marked_routers(model) == {}
    assert [type(r) for r in routers_of(model)] == [type(r) for r in routers_of(dense)]
    assert model.model.layers[0].mlp.experts.down_proj.shape[0] == 4
    assert_same(model, expected)
    assert_same(exported(model, tmp_path / "compact", expected), expected)


def exported(model: Any, folder: Path, expected: dict[str, Tensor]) -> PreTrainedModel:
    """The model as plain `from_pretrained` gives it; what is only marked cannot be saved."""
    if marked_routers(model):
        with pytest.raises(ValueError, match="the router would choose them again"):
            model.save_pretrained(folder / "saved")
        with pytest.raises(ValueError, match="the router would choose them again"):
            model.base_model.save_pretrained(folder / "saved")
    else:
        model.save_pretrained(folder / "saved")
        assert_same(type(model).from_pretrained(folder / "saved"), expected)
    done = export_model(model, folder / "exported", check=False)
    assert done.form == "stock", done.reason
    again = type(model).from_pretrained(done.folder)
    assert not hasattr(again.config, "quantization_config")
    assert getattr(again.config, field_of(again.config)) == 4
    assert done.parameters == again.num_parameters()
    return again


@every_family
def test_experts_heads_and_neurons_go_together(family, tmp_path):
    model = mixture(family)
    prune_model(model, 0.5, level="unit", experts_level="unit", importance="magnitude")
    expected = family_outputs(model)
    done = export_model(model, tmp_path / "x", check=False)
    assert done.form == "stock", done.reason
    again = type(model).from_pretrained(done.folder)
    width = mixture(family).model.layers[0].mlp.experts.down_proj.numel() // (32 * EXPERTS)
    down = again.model.layers[0].mlp.experts.down_proj
    assert down.numel() == 4 * 32 * width // 2
    assert_same(again, expected)
    assert_same(compact_model(model), expected)


@every_family
def test_layers_that_keep_different_numbers_are_compact(family, tmp_path):
    model = mixture(family)
    with torch.no_grad():
        for stack in model.model.layers[0].mlp.experts.parameters():
            stack[:5] *= 0.01
    prune_model(model, 0.5, importance="magnitude", budget="global", **ONLY)
    kept = left_in(model)
    assert len(kept[0]) < len(kept[1])
    expected = family_outputs(model)
    with pytest.raises(ValueError, match=r"first of model.layers.0.mlp, and experts cannot be pad"):
        export_model(model, tmp_path / "x", form="padded")
    with pytest.raises(ValueError, match="numbers of experts that are left"):
        export_model(model, tmp_path / "x", form="stock")
    done = export_model(model, tmp_path / "x", check=False)
    assert done.form == "compact"
    again = type(model).from_pretrained(done.folder)
    assert [len(router.weight) for router in routers_of(again)] == [len(k) for k in kept]
    assert_same(again, expected)


@pytest.mark.slow
def test_exports_load_in_a_fresh_process(tmp_path):
    model = mixture("mixtral")
    prune_model(model, 0.5, importance="magnitude", **ONLY)
    for form in ("stock", "compact", "archive", "padded"):
        export_model(model, tmp_path / form, form=form)


def test_what_is_masked_comes_back_from_an_archive(tmp_path):
    model = mixture("mixtral")
    prune_model(model, 0.5, importance="magnitude", **ONLY)
    done = export_model(model, tmp_path / "x", form="archive", check=False)
    again = load_archived_model(done.folder)
    assert left_in(again) == left_in(model)
    with pytest.raises(ValueError, match="the router would choose them again"):
        again.save_pretrained(tmp_path / "y")
    assert_same(again, family_outputs(model))


@every_family
@pytest.mark.parametrize("patched", [False, True])
def test_a_curve_restores_everything(family, patched):
    model = mixture(family)
    if patched:
        patch_model(model, **ONLY, **RATES)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    classes = [type(module) for module in model.modules()]
    expected, settings = logits(model), model.config.to_dict()
    seen: list[tuple[int, Tensor]] = []

    def evaluate(pruned: Any) -> float:
        seen.append((len(left_in(pruned)[0]), logits(pruned)))
        return 0.0

    points = pruning_curve(model, [0.0, 0.25, 0.5, 1.0], evaluate, importance="magnitude", **ONLY)
    assert [count for count, _ in seen] == [8, 6, 4, 2]
    assert torch.equal(seen[0][1], expected)
    assert not any(torch.equal(output, expected) for _, output in seen[1:])
    assert points[0].removed_prunable == 0
    assert points[1].removed_prunable < points[2].removed_prunable
    assert torch.equal(logits(model), expected)
    assert [type(module) for module in model.modules()] == classes
    assert model.config.to_dict() == settings
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_pruning_nothing_leaves_no_mark():
    model = mixture("mixtral")
    prune_model(model, 0.0, importance="magnitude", **ONLY)
    assert marked_routers(model) == {}
    assert layout_of_model(model) is None


@pytest.mark.parametrize("importance", ["magnitude", "random"])
def test_what_is_gone_stays_gone_while_the_rest_trains(importance):
    model = mixture("mixtral")
    prune_model(model, 0.5, importance="magnitude", **ONLY)
    kept = left_in(model)
    patch_model(model, **ONLY, **{**RATES, "targeting": 0.7, "importance": importance})
    train(model, 0, 4)
    unpatch_model(model)
    assert left_in(model) == kept
    assert logits(model.eval()).isfinite().all()
    prune_model(model, 0.75, importance="magnitude", **ONLY)
    assert all(set(now) < set(then) for now, then in zip(left_in(model), kept, strict=True))
    assert [len(now) for now in left_in(model)] == [2, 2]


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
    patch_of(model).settle_activations()
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


@pytest.mark.parametrize("of", ["units", "parameters", "flops"])
def test_a_global_budget_ranks_the_experts_of_all_layers(of):
    model = mixture("mixtral")
    prune_model(model, 0.5, importance="magnitude", budget="global", of=of, **ONLY)
    assert sum(map(len, left_in(model))) == EXPERTS
    assert all(len(kept) >= CHOSEN for kept in left_in(model))


def test_experts_are_not_counted_twice():
    with pytest.raises(ValueError, match=r"count model.layers.0.mlp.experts.down_proj twice"):
        prune_model(mixture("mixtral"), 0.5, level="unit", experts_level="unit", budget="global")


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
        return [s.layer.keep for s in patch_of(model).sites if not isinstance(s, ExpertSite)]

    assert all(map(torch.equal, masks(), masks(experts_level="unit")))


def test_the_setting_goes_through_json_and_arguments():
    config = TargetedDropoutConfig(experts_level="unit")
    assert TargetedDropoutConfig.from_json(config.to_json()) == config
    assert TargetedDropoutConfig().level_of("experts") == "none"
    arguments = TargetedDropoutArguments(experts_level="unit", report_to="none")
    assert arguments.targeted_dropout().experts_level == "unit"


@pytest.mark.parametrize("settings", [{"draw": "element"}, {"rescale": True}])
def test_experts_go_whole_and_without_scale(settings):
    with pytest.raises(ValueError, match="goes with draw='unit' and rescale=False"):
        TargetedDropoutConfig(experts_level="unit", **settings)
    with pytest.raises(ValueError, match=r"experts_level must be one of \['unit', 'none'\]"):
        TargetedDropoutConfig(experts_level="weight")  # pyright: ignore[reportArgumentType]


def test_a_model_without_spare_experts_is_refused():
    with pytest.raises(ValueError, match="BertForSequenceClassification has none with more"):
        patch_model(tiny_family("bert"), experts_level="unit")
    with pytest.raises(ValueError, match="MixtralForCausalLM has none with more experts than"):
        prune_model(mixture("mixtral", experts=2), 0.5, experts_level="unit")


def test_a_router_that_chooses_by_more_than_its_logits_is_refused():
    config = hf.Glm4MoeConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        moe_intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        n_routed_experts=8,
        first_k_dense_replace=0,
        pad_token_id=0,
    )
    model = hf.Glm4MoeForCausalLM(config)
    (found,) = read_anatomy(model).mixtures
    assert found.obstacle is not None
    with pytest.raises(ValueError, match=r"a buffer with an entry for each expert, e_score_corr"):
        patch_model(model, **ONLY, **RATES)
    patch_model(model, level="unit", **RATES)  # its heads and neurons can be dropped


def test_rows_of_zeros_that_are_no_mark_are_refused():
    model = mixture("mixtral")
    with torch.no_grad():
        routers_of(model)[0].weight[3] = 0
    with pytest.raises(ValueError, match=r"1 of the 8 rows of model.layers.0.mlp.gate are all ze"):
        prune_model(model, 0.5, importance="magnitude", **ONLY)


def test_what_cannot_rank_or_treat_experts_is_refused():
    batches = [{**family_inputs(mixture("mixtral")), "labels": torch.ones(2, 7, dtype=torch.long)}]
    for importance in ("taylor", "movement"):
        with pytest.raises(ValueError, match=r"cannot rank the experts of model.layers.0"):
            prune_model(mixture("mixtral"), 0.5, importance=importance, calibration=batches, **ONLY)
    with pytest.raises(ValueError, match="whole experts are for targeted dropout alone"):
        attach_baseline(mixture("mixtral"), L1(), TargetedDropoutConfig(**ONLY))


def test_a_random_set_is_the_same_in_training_and_pruning():
    model = patch_model(mixture("mixtral"), **ONLY, **{**RATES, "importance": "random", "seed": 4})
    anneal(model, progress=1.0, update=0)
    kept = kept_now(model)
    unpatch_model(model)
    prune_model(model, 0.5, importance="random", seed=4, **ONLY)
    assert left_in(model) == kept


@pytest.mark.parametrize("check", [True, False])
def test_a_cut_is_checked_or_not_and_undone_as_a_whole(check, monkeypatch):
    model = mixture("mixtral")
    prune_model(model, 0.5, level="unit", experts_level="unit", importance="magnitude")
    expected, settings = family_outputs(model), model.config.to_dict()
    if not check:
        assert_same(compact_model(model, check=False), expected)
        return
    monkeypatch.setattr(compact, "compare", lambda *_: (_ for _ in ()).throw(ValueError("wrong")))
    with pytest.raises(ValueError, match="left as it was: wrong"):
        compact_model(model)
    assert [len(kept) for kept in left_in(model)] == [4, 4]
    assert model.config.to_dict() == settings
    assert_same(model, expected)


def test_a_forward_that_was_replaced_is_refused():
    model = mixture("mixtral")
    router = routers_of(model)[0]
    router.forward = router.forward
    for take in (patch_model, lambda model, **_: prune_model(model, 0.5, **ONLY)):
        with pytest.raises(TypeError, match=r"cannot target model.layers.0.mlp.gate: its forward"):
            take(model, **ONLY, **RATES)
