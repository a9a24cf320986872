"""Patched models of every family, at both levels."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import PreTrainedModel

from hf_td import TargetedDropoutConfig, anneal, patch_model, unpatch_model
from hf_td.config import CONFIG_KEY
from hf_td.layers import is_targeted
from hf_td.patching import Patch, find_patch
from hf_td.sites import Site, UnitSite, WeightSite
from tests.reference import lowest, unit_scores
from tests.tiny import FAMILIES, checkpoint_activations, tiny_inputs, tiny_model

LEVELS = ["weight", "unit"]
HALF = {
    "importance": "magnitude",
    "targeting": 0.5,
    "drop_rate": 0.5,
    "targeting_schedule": "constant",
    "drop_rate_schedule": "constant",
}
every_family = pytest.mark.parametrize("family", FAMILIES)
every_level = pytest.mark.parametrize("level", LEVELS)


def tiny_albert() -> PreTrainedModel:
    """One layer that runs three times."""
    torch.manual_seed(0)
    config = hf.AlbertConfig(
        vocab_size=64,
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
    )
    return hf.AlbertForSequenceClassification(config).eval()


def a_model(family: str) -> PreTrainedModel:
    return tiny_albert() if family == "albert" else tiny_model(family)


def patched(family: str, **settings: Any) -> PreTrainedModel:
    return patch_model(a_model(family), **{**HALF, **settings})


def patch_of(model: nn.Module) -> Patch:
    patch = find_patch(model)
    assert patch is not None
    return patch


def masks(model: nn.Module) -> dict[str, Tensor]:
    return {site.name: site.layer.keep.clone() for site in patch_of(model).sites}


def targeted_names(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if is_targeted(module)}


def logits(model: nn.Module) -> Tensor:
    return model(**tiny_inputs(bare(model))).logits


def bare(model: Any) -> Any:
    return model.inner if isinstance(model, Wrapper) else model


def train_step(model: Any) -> None:
    """A forward and backward in training mode; the same stock dropout every time."""
    torch.manual_seed(0)
    model.train()
    model.zero_grad()
    logits(model).square().mean().backward()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def stock_with_masked_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A stock model whose weights are those that the patched model's update uses."""
    stock = unpatch_model(copy.deepcopy(model))
    for site in patch_of(model).sites:
        layer: Any = stock.get_submodule(site.name)
        layer.weight.data.mul_(site.layer.keep)
    return stock


def assert_same_masks(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, keep in one.items():
        assert torch.equal(keep, other[name]), name


def assert_all_masks_differ(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, keep in one.items():
        assert not torch.equal(keep, other[name]), name


def units_kept(site: Site) -> list[bool]:
    """Whether a unit's features are kept; all of them or none."""
    assert isinstance(site, UnitSite)
    by_feature = site.layer.keep.flatten()[site.block.consumer.features]
    assert (by_feature == by_feature[:, :1]).all()
    return by_feature[:, 0].bool().tolist()


class Wrapper(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, **inputs: Any) -> Any:
        return self.inner(**inputs)


# --- a patched model is its stock model, but for the masks in training ---


@every_family
@every_level
def test_outputs_in_eval_mode_are_those_of_the_stock_model(family, level):
    model = tiny_model(family)
    before = logits(model)
    assert patch_model(model, level=level) is model
    anneal(model, 1.0, 0)
    assert torch.equal(logits(model), before)
    assert unpatch_model(model) is model
    assert torch.equal(logits(model), before)


@every_family
@every_level
def test_parameters_keys_and_classes_are_those_of_the_stock_model(family, level):
    model = tiny_model(family)
    parameters = dict(model.named_parameters())
    classes = {name: type(module) for name, module in model.named_modules()}
    buffers = {name for name, _ in model.named_buffers()}
    keys = list(model.state_dict())
    patch_model(model, level=level)
    assert list(model.state_dict()) == keys
    for name, parameter in model.named_parameters():
        assert parameter is parameters.pop(name)
    assert not parameters
    parameters = dict(model.named_parameters())
    unpatch_model(model)
    assert {name: type(module) for name, module in model.named_modules()} == classes
    assert {name for name, _ in model.named_buffers()} == buffers
    assert not model._forward_pre_hooks
    assert list(model.state_dict()) == keys
    for name, parameter in model.named_parameters():
        assert parameter is parameters.pop(name)
    assert not parameters


@pytest.mark.parametrize("family", [*FAMILIES, "albert"])
@every_level
def test_an_update_computes_what_the_stock_model_computes_with_masked_weights(family, level):
    model = patched(family, level=level)
    anneal(model, 1.0, 3)
    stock = stock_with_masked_weights(model)
    train_step(model)
    train_step(stock)
    torch.manual_seed(0)
    output = logits(model)
    torch.manual_seed(0)
    assert_close(logits(stock), output)
    keeps = masks(model)
    expected = gradients(stock)
    for name, grad in gradients(model).items():
        keep = keeps.get(name.removesuffix(".weight"), torch.tensor(1))
        factor = keep if name.endswith(".weight") else 1
        assert_close(grad, expected[name] * factor, rtol=1e-4, atol=1e-6)


# --- who is a candidate ---


@every_family
def test_candidates_are_the_lowest_weights_of_each_output_unit(family):
    model = patched(family, drop_rate=1.0)
    anneal(model, 1.0, 0)
    for site in patch_of(model).sites:
        assert isinstance(site, WeightSite)
        keep = site.layer.keep.movedim(site.dim, 1)
        for weights, kept in zip(site.layer.weight.movedim(site.dim, 1), keep, strict=True):
            dropped = (~kept).nonzero().flatten().tolist()
            assert set(dropped) == lowest(weights.abs().tolist(), 0.5), site.name


@every_family
def test_candidates_are_the_units_of_lowest_norm_of_each_block(family):
    model = patched(family, level="unit", drop_rate=1.0)
    anneal(model, 1.0, 0)
    for site in patch_of(model).sites:
        assert isinstance(site, UnitSite)
        dropped = {i for i, kept in enumerate(units_kept(site)) if not kept}
        tied = patch_of(model).anatomy.tied(site.block)
        assert dropped == lowest(unit_scores(model, tied), 0.5), site.name


def test_candidates_follow_the_weights_as_they_change():
    model = patched("bert", drop_rate=1.0)
    anneal(model, 1.0, 0)
    site = patch_of(model).sites[0]
    before = site.layer.keep
    site.layer.weight.data = site.layer.weight.data.reciprocal()
    anneal(model, 1.0, 1)
    assert_close(site.layer.keep, ~before)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@every_level
def test_the_expected_share_is_dropped(family, level):
    model = patched(family, level=level)
    patch = patch_of(model)
    updates, draws, dropped = 40, 0, 0
    for update in range(updates):
        anneal(model, 1.0, update)
        for site in patch.sites:
            kept = torch.tensor(units_kept(site)) if level == "unit" else site.layer.keep
            draws += kept.numel() // 2
            dropped += int((~kept).sum())
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
    for name, kept in candidates_kept.items():
        assert (kept | untargeted[name]).float().mean() > 0.9, name


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
        grad, keep = site.layer.weight.grad, site.layer.keep
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
        kept = torch.tensor(units_kept(site))
        assert (~kept).any()
        for projection in site.block.projections:
            layer: Any = model.get_submodule(projection.module)
            grad = layer.weight.grad.movedim(projection.feature_dim(model), 0)
            assert (grad[projection.features[~kept]] == 0).all(), projection.module
            assert (grad[projection.features[kept]] != 0).any(), projection.module
            if layer.bias is not None and not projection.reads:
                assert (layer.bias.grad[projection.features[~kept]] == 0).all(), projection.module


# --- a mask is a function of the seed, the update and the layer ---


@every_family
@every_level
def test_masks_are_a_function_of_seed_and_update(family, level):
    # Units are few; so many of them are candidates that no two draws are equal by chance.
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


def test_without_a_number_every_call_is_another_update():
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
def test_every_micro_batch_of_an_update_sees_the_same_mask(level):
    model = patched("bert", level=level)
    anneal(model, 1.0, 0)
    keeps = [site.layer.keep for site in patch_of(model).sites]
    for _ in range(3):
        train_step(model)
    for site, keep in zip(patch_of(model).sites, keeps, strict=True):
        assert site.layer.keep is keep


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5", "vit"])
@pytest.mark.parametrize("annealed", [True, False])
@every_level
def test_checkpointed_activations_see_the_same_mask(family, level, annealed):
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
    layer.register_forward_hook(lambda module, *_: seen.append(module.keep))
    train_step(model)
    assert len(seen) == 3
    assert all(keep is layer.keep for keep in seen)


@pytest.mark.parametrize("family", ["bert", "t5"])
@every_level
def test_nobody_annealing_each_training_forward_is_an_update_at_the_final_rates(family, level):
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


def test_self_counted_masks_are_those_of_the_same_update():
    model, twin = patched("bert"), patched("bert")
    model.train()
    logits(model)
    logits(model)
    anneal(twin, 1.0, 1)
    assert_same_masks(masks(model), masks(twin))


def test_annealing_ends_the_counting_of_forwards():
    model = patched("bert")
    assert len(model._forward_pre_hooks) == 1
    anneal(model, 0.5, 4)
    assert not model._forward_pre_hooks
    before = masks(model)
    train_step(model)
    assert_same_masks(masks(model), before)
    assert patch_of(model).updates == 5


# --- wrappers, copies, files, dtypes ---


@every_level
def test_annealing_and_unpatching_work_through_a_wrapper(level):
    model = patched("bert", level=level)
    wrapper = Wrapper(model)
    anneal(wrapper, 1.0, 0)
    assert patch_of(wrapper) is patch_of(model)
    assert patch_of(model).dropped_share() > 0
    unpatch_model(wrapper)
    assert not targeted_names(wrapper)
    assert find_patch(model) is None


@every_level
def test_a_copy_has_masks_of_its_own(level):
    model = patched("bert", level=level)
    twin = copy.deepcopy(model)
    before = masks(model)
    anneal(twin, 1.0, 0)
    assert_same_masks(masks(model), before)
    assert {id(s.layer) for s in patch_of(twin).sites} <= {id(m) for m in twin.modules()}
    for site in patch_of(twin).sites:
        assert twin.get_submodule(site.name) is site.layer
    assert len(model._forward_pre_hooks) == 1
    assert not twin._forward_pre_hooks
    assert type(twin) is type(model)
    unpatch_model(twin)
    assert targeted_names(model)
    assert hasattr(model.config, CONFIG_KEY)


def test_an_optimiser_stays_valid():
    model = tiny_model("bert")
    optimiser = torch.optim.AdamW(model.parameters())
    patch_model(model, **HALF)
    anneal(model, 1.0, 0)
    weight = patch_of(model).sites[0].layer.weight
    before = weight.detach().clone()
    train_step(model)
    optimiser.step()
    assert not torch.equal(weight, before)
    unpatch_model(model)
    train_step(model)
    optimiser.step()


def test_the_config_of_the_model_records_how_it_was_patched():
    model = tiny_model("bert")
    config = TargetedDropoutConfig(targeting=0.4, layers=(1,))
    patch_model(model, config)
    assert getattr(model.config, CONFIG_KEY) == config.to_dict()
    unpatch_model(model)
    assert not hasattr(model.config, CONFIG_KEY)
    assert CONFIG_KEY not in model.config.to_dict()


@every_family
@every_level
def test_a_saved_model_loads_by_its_stock_class(family, level, tmp_path):
    model: Any = patched(family, level=level)
    anneal(model, 1.0, 0)
    model.save_pretrained(tmp_path)
    again, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert {key: value for key, value in info.items() if value} == {}
    assert not targeted_names(again)
    assert torch.equal(logits(again), logits(model.eval()))
    assert getattr(again.config, CONFIG_KEY) == patch_of(model).config.to_dict()
    assert again.config.architectures == [type(model).__name__]


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("rescale", [False, True])
@every_level
def test_a_bfloat16_model_trains(family, level, rescale):
    model = tiny_model(family).bfloat16()
    patch_model(model, level=level, rescale=rescale, **HALF)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for update in range(2):
        anneal(model, 1.0, update)
        train_step(model)
        optimiser.step()
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.bfloat16, name
        assert parameter.isfinite().all(), name
    assert logits(model).dtype == torch.bfloat16


# --- what is selected ---

ATTENTION = {"attention.self.query", "attention.self.key", "attention.self.value"}
CONSUMER = "attention.output.dense"
FEED_FORWARD = {"intermediate.dense", "output.dense"}


@pytest.mark.parametrize(
    ("settings", "weights", "units"),
    [
        ({}, {*ATTENTION, CONSUMER, *FEED_FORWARD}, set()),
        ({"level": "unit"}, set(), {CONSUMER, "output.dense"}),
        ({"attention_level": "none"}, FEED_FORWARD, set()),
        ({"feed_forward_level": "none"}, {*ATTENTION, CONSUMER}, set()),
        ({"attention_level": "unit"}, FEED_FORWARD, {CONSUMER}),
        ({"feed_forward_level": "unit"}, {*ATTENTION, CONSUMER}, {"output.dense"}),
        ({"level": "unit", "attention_level": "none"}, set(), {"output.dense"}),
        ({"level": "unit", "attention_level": "weight"}, {*ATTENTION, CONSUMER}, {"output.dense"}),
        ({"include": ["*.query", "*.key"]}, {"attention.self.query", "attention.self.key"}, set()),
        ({"exclude": ["*.attention.*"]}, FEED_FORWARD, set()),
        ({"include": ["*.attention.*"], "exclude": ["*.self.*"]}, {CONSUMER}, set()),
        ({"level": "unit", "exclude": ["*.attention.*"]}, set(), {"output.dense"}),
    ],
)
@pytest.mark.parametrize("layers", [None, [1], [0, 1]])
def test_levels_patterns_and_layers_select_the_projections(settings, weights, units, layers):
    model = patched("bert", **settings, layers=layers)
    expected = {
        f"bert.encoder.layer.{i}.{name}" for i in layers or [0, 1] for name in weights | units
    }
    assert targeted_names(model) == expected
    sites = patch_of(model).sites
    prefix = len("bert.encoder.layer.0.")
    assert {s.name[prefix:] for s in sites if isinstance(s, UnitSite)} == units
    assert len({s.index for s in sites}) == len(sites)


def test_what_is_selected_does_not_change_the_masks_of_the_others():
    every, some = patched("bert"), patched("bert", layers=[1], exclude=["*.query"])
    anneal(every, 1.0, 3)
    anneal(some, 1.0, 3)
    keeps = masks(every)
    assert_same_masks(masks(some), {name: keeps[name] for name in masks(some)})


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_layers_that_share_a_position_bias_drop_the_same_heads(stack):
    model = patched("t5", level="unit")
    for update in range(5):
        anneal(model, 1.0, update)
        keeps = masks(model)
        first, second = (keeps[f"{stack}.block.{i}.layer.0.SelfAttention.o"] for i in (0, 1))
        assert torch.equal(first, second)


@every_family
def test_embeddings_heads_and_norms_are_never_targeted(family):
    model = patched(family)
    names = targeted_names(model)
    assert names
    embeddings: Any = [model.get_input_embeddings(), model.get_output_embeddings()]
    assert not any(is_targeted(m) for m in embeddings if m is not None)
    assert not any(part in name for name in names for part in ("classifier", "lm_head", "pooler"))


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
        keep, untargeted = site.layer.keep, masks(whole)[site.name].expand_as(site.layer.weight)
        assert keep.shape == site.layer.weight.shape
        assert keep[untargeted].all()
        dropped += int((~keep).sum())
        candidates += int((~untargeted).sum())
    assert abs(dropped - candidates / 2) < 5 * math.sqrt(candidates / 4)
    train_step(model)


@every_level
def test_rescaling_makes_up_for_the_drop(level):
    plain, scaled = (patched("bert", level=level, rescale=r, drop_rate=0.75) for r in (False, True))
    whole = patched("bert", level=level, drop_rate=1.0)
    for model in (plain, scaled, whole):
        anneal(model, 1.0, 2)
    for name, keep in masks(scaled).items():
        candidates = ~masks(whole)[name]
        assert_close(keep, torch.where(candidates, masks(plain)[name] / 0.25, 1.0))
    shares = [patch_of(model).dropped_share() for model in (plain, scaled)]
    assert shares[0] == pytest.approx(shares[1])


@every_level
def test_rate_0_trains_as_the_stock_model_bit_for_bit(level):
    model, stock = patched("bert", level=level, drop_rate=0.0), tiny_model("bert")
    anneal(model, 1.0, 0)
    train_step(model)
    train_step(stock)
    expected = gradients(stock)
    for name, grad in gradients(model).items():
        assert torch.equal(grad, expected[name]), name


# --- what is refused ---


class NoBlocksConfig(hf.PreTrainedConfig):
    model_type = "no_blocks"

    def __init__(self, vocab_size: int = 32, **rest: Any) -> None:
        self.vocab_size = vocab_size
        super().__init__(**rest)


class NoBlocks(PreTrainedModel):
    """Embeddings, and two linear layers of which one is never called."""

    config_class = NoBlocksConfig

    def __init__(self, config: NoBlocksConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, 8)
        self.readout = nn.Linear(8, 4)
        self.idle = nn.Linear(8, 4)
        self.post_init()

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.readout(self.embedding(input_ids).mean(1))


def assert_stock(model: nn.Module) -> None:
    assert not targeted_names(model)
    assert find_patch(model) is None
    assert not model._forward_pre_hooks
    assert not hasattr(getattr(model, "config", None), CONFIG_KEY)


def test_patching_twice_is_refused():
    model = patched("bert")
    with pytest.raises(ValueError, match=r"patched already; call unpatch_model\(model\) first"):
        patch_model(model)
    with pytest.raises(ValueError, match="patched already"):
        patch_model(Wrapper(model))
    unpatch_model(model)
    patch_model(model)


def test_a_model_without_blocks_is_refused_with_what_was_found():
    model = NoBlocks(NoBlocksConfig())
    message = "nothing to target in NoBlocks: found no attention .* readout, idle, .*calls idle"
    with pytest.raises(ValueError, match=message):
        patch_model(model)
    assert_stock(model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"include": ["*.nope"]},
            r"patterns \['\*.nope'\] match none of the projections: bert",
        ),
        ({"include": ["*.query", "q"]}, r"the patterns \['q'\] match none of the projections"),
        ({"exclude": ["*.nope"]}, r"the patterns \['\*.nope'\] match none"),
        ({"layers": [0, 7]}, r"there are no layers \[7\]; there are \[0, 1\]"),
        ({"layers": [-1]}, r"there are no layers \[-1\]; there are \[0, 1\]"),
        ({"layers": []}, "nothing to target in BertForSequenceClassification"),
        ({"exclude": ["*.encoder.*"]}, "the levels select none of bert.encoder.layer.*.attention"),
        ({"attention_level": "none", "feed_forward_level": "none"}, "the levels select none of"),
        ({"level": "unit", "include": ["*.query"]}, "the levels select none of"),
        ({"targeting": 1.0}, "targeting is a fraction"),
    ],
)
def test_a_selection_that_is_not_there_is_refused(settings, message):
    model = tiny_model("bert")
    with pytest.raises(ValueError, match=message):
        patch_model(model, **settings)
    assert_stock(model)


def test_an_unknown_setting_is_refused():
    model = tiny_model("bert")
    with pytest.raises(TypeError, match=r"unknown settings \['gamma'\]; known are"):
        patch_model(model, gamma=0.5)
    assert_stock(model)


@pytest.mark.parametrize("progress", [-0.01, 1.01, math.nan, 50])
def test_progress_outside_of_the_run_is_refused(progress):
    model = patched("bert")
    with pytest.raises(ValueError, match=r"progress is .*in \[0, 1\]; got"):
        anneal(model, progress)
    assert patch_of(model).updates == 0


def test_an_unpatched_model_cannot_be_annealed_or_unpatched():
    model = tiny_model("bert")
    with pytest.raises(ValueError, match="BertForSequenceClassification is not patched"):
        anneal(model, 0.5)
    with pytest.raises(ValueError, match=r"is not patched; call patch_model\(model\) first"):
        unpatch_model(model)


class PackedLinear(nn.Linear):
    """As quantised layers are: an `nn.Linear` whose weight is no ordinary parameter."""


class PackedWeight(nn.Parameter):
    pass


def pack(layer: Any) -> None:
    layer.__class__ = PackedLinear
    layer.weight = PackedWeight(layer.weight.data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pack, "got tests.*PackedLinear"),
        (lambda layer: setattr(layer, "forward", layer.forward), "its forward was replaced"),
    ],
)
def test_a_layer_that_cannot_be_targeted_is_refused_by_name(change, message):
    model: Any = tiny_model("bert")
    change(model.bert.encoder.layer[1].output.dense)
    with pytest.raises(TypeError, match=rf"target bert.encoder.layer.1.output.dense: .*{message}"):
        patch_model(model)
    assert_stock(model)
    patch_model(model, exclude=["bert.encoder.layer.1.output.dense"])
    assert len(patch_of(model).sites) == 11
