"""A patched model equals its stock model except for the masks, also in wrappers and copies."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM

from hf_td import (
    TargetedDropoutConfig,
    anneal,
    compact_model,
    patch_model,
    prune_model,
    unpatch_model,
)
from hf_td.config import CONFIG_KEY, trained_with
from hf_td.patching.patch import find_patch
from tests.patching.models import (
    HALF,
    Wrapper,
    assert_same_masks,
    every_family,
    every_level,
    gradients,
    logits,
    masks,
    patch_of,
    patched,
    stock_with_masked_weights,
    targeted_names,
    train_step,
)
from tests.tiny import FAMILIES, TEXT, tiny_model

# --- outputs, parameters and gradients ---


@every_family
@every_level
def test_outputs_in_eval_mode_equal_those_of_the_stock_model(family, level):
    model = tiny_model(family)
    before = logits(model)
    assert patch_model(model, level=level) is model
    anneal(model, 1.0, 0)
    assert torch.equal(logits(model), before)
    assert unpatch_model(model) is model
    assert torch.equal(logits(model), before)


@every_family
@every_level
def test_parameters_and_keys_are_stock_and_unpatching_restores_the_classes(family, level):
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
def test_an_update_equals_the_stock_model_with_masked_weights(family, level):
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


# --- wrappers, copies, files, dtypes ---


@every_level
def test_a_model_inside_a_wrapper_is_annealed_and_unpatched(level):
    model = patched("bert", level=level)
    wrapper = Wrapper(model)
    anneal(wrapper, 1.0, 0)
    assert patch_of(wrapper) is patch_of(model)
    assert patch_of(model).dropped_share() > 0
    unpatch_model(wrapper)
    assert not targeted_names(wrapper)
    assert find_patch(model) is None


@every_level
def test_a_copy_has_its_own_masks(level):
    model = patched("bert", level=level)
    twin = copy.deepcopy(model)
    before = masks(model)
    anneal(twin, 1.0, 0)
    assert_same_masks(masks(model), before)
    assert {id(s.layer) for s in patch_of(twin).sites} <= {id(m) for m in twin.modules()}
    for site in patch_of(twin).sites:
        assert twin.get_submodule(site.name) is site.layer
    assert patch_of(model).self_counting
    assert not patch_of(twin).self_counting
    assert type(twin) is type(model)
    unpatch_model(twin)
    assert targeted_names(model)
    assert hasattr(model.config, CONFIG_KEY)


def test_an_optimiser_stays_valid_after_patching_and_unpatching():
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


def test_the_config_of_the_model_records_the_settings_of_the_patch():
    model = tiny_model("bert")
    config = TargetedDropoutConfig(targeting=0.4, layers=(1,))
    patch_model(model, config)
    assert getattr(model.config, CONFIG_KEY) == config.to_dict()
    unpatch_model(model)
    assert not hasattr(model.config, CONFIG_KEY)
    assert CONFIG_KEY not in model.config.to_dict()


@every_family
def test_other_models_of_the_config_get_no_record(family):
    model: Any = tiny_model(family)
    parts = [module for module in model.modules() if hasattr(module, "config")]
    shared, other = model.config, type(model)(model.config)
    was = [[a.config is b.config for a in parts] for b in parts]
    anneal(patch_model(model, level="unit"), 1.0, 0)
    assert trained_with(model) is not None
    assert other.config is shared
    assert CONFIG_KEY not in shared.to_dict()
    assert prune_model(other, 0.5, level="unit").sparsity > 0.4
    assert [[a.config is b.config for a in parts] for b in parts] == was
    assert all(part.config is not shared for part in parts)


def test_unpatching_keeps_the_record_of_a_training_in_the_config():
    model = tiny_model("bert")
    trained = TargetedDropoutConfig(level="unit", targeting=0.5, importance="magnitude")
    anneal(patch_model(model, trained), 1.0, 0)
    unpatch_model(model)
    assert getattr(model.config, CONFIG_KEY) == trained.to_dict()
    assert prune_model(model, 0.5).blocks[0].removed == 2, "the recorded level is `unit`"
    # A patch without updates leaves no record.
    unpatch_model(patch_model(model, level="weight"))
    assert getattr(model.config, CONFIG_KEY) == trained.to_dict()


@every_family
@every_level
def test_a_saved_model_loads_into_its_stock_class(family, level, tmp_path):
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
@every_level
def test_a_bfloat16_model_trains(family, level):
    model = tiny_model(family).bfloat16()
    patch_model(model, level=level, **HALF)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for update in range(2):
        anneal(model, 1.0, update)
        train_step(model)
        optimiser.step()
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.bfloat16, name
        assert parameter.isfinite().all(), name
    assert logits(model).dtype == torch.bfloat16


def test_parts_that_are_patched_separately_are_refused():
    whole = nn.ModuleList([patch_model(tiny_model("bert"), **HALF) for _ in range(2)])
    for act in (lambda: anneal(whole, 0.5), lambda: unpatch_model(whole)):
        with pytest.raises(ValueError, match="2 parts of ModuleList are patched separately"):
            act()
    unpatch_model(whole[0])
    assert find_patch(whole) is find_patch(whole[1])


def test_the_last_unit_of_a_block_in_a_compact_model_is_not_targeted():
    model: Any = tiny_model("llama")
    prune_model(model, 0.5, level="unit")
    compact_model(model)
    patch_model(model, level="unit", **HALF)
    names = {site.name for site in patch_of(model).sites}
    assert names == {f"model.layers.{i}.mlp.down_proj" for i in range(2)}
    anneal(model, 1.0, 0)
    with pytest.raises(ValueError, match="share one key and value head"):
        patch_model(LlamaForCausalLM(LlamaConfig(**TEXT, num_key_value_heads=1)), level="unit")
