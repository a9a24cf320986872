"""Low-rank adapters on patched models, and patches on models with adapters."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model

from hf_td import (
    TargetedDropoutTrainer,
    anneal,
    compact_model,
    patch_model,
    prune_model,
    unpatch_model,
)
from hf_td.patching.patch import find_patch
from tests.tiny import tiny_inputs, tiny_model
from tests.training.models import arguments, examples

LORA = LoraConfig(target_modules=["query", "value"], init_lora_weights=False)
SETTINGS: dict[str, Any] = {
    "targeting": 0.5,
    "targeting_schedule": "constant",
    "drop_rate_schedule": "constant",
}
every_level = pytest.mark.parametrize("level", ["weight", "unit"])


def outputs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**tiny_inputs(model))[0]


@every_level
def test_adapters_train_on_a_patched_model(level):
    model: Any = patch_model(tiny_model("bert"), level=level, **SETTINGS)
    adapted: Any = get_peft_model(model, LORA)
    for update in range(2):
        anneal(adapted.train(), 0.5, update)
        adapted(**tiny_inputs(adapted))[0].sum().backward()
    patch = find_patch(adapted)
    assert patch is not None
    assert patch.dropped_share() == pytest.approx(0.5, abs=0.02)
    trained = [name for name, p in adapted.named_parameters() if p.grad is not None]
    assert any("lora_B" in name for name in trained)
    assert not any("base_layer" in name for name in trained)
    expected = outputs(adapted)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(outputs(merged), expected)
    unpatch_model(merged)
    torch.testing.assert_close(outputs(merged), expected)


def test_a_model_with_merged_adapters_is_made_compact():
    model = patch_model(tiny_model("bert"), level="unit", **SETTINGS)
    merged: Any = get_peft_model(model, LORA).merge_and_unload()
    prune_model(merged, 0.5)
    expected, before = outputs(merged), merged.num_parameters()
    compact_model(merged, multiple_of=1)
    torch.testing.assert_close(outputs(merged), expected, atol=1e-5, rtol=1e-5)
    assert merged.num_parameters() < before


@every_level
def test_a_model_with_adapters_is_patched_through_them(level):
    adapted: Any = get_peft_model(tiny_model("bert"), LORA)
    expected = outputs(adapted)
    patch_model(adapted, level=level, **SETTINGS)
    torch.testing.assert_close(outputs(adapted), expected)
    anneal(adapted.train(), 0.5, 0)
    adapted(**tiny_inputs(adapted))[0].sum().backward()
    names = [site.name for site in find_patch(adapted).sites]  # pyright: ignore
    assert any(name.endswith("attention.output.dense") for name in names)
    assert any("lora_B" in name for name in names) == (level == "weight")
    unpatch_model(adapted)
    torch.testing.assert_close(outputs(adapted), expected)


def test_single_weights_are_pruned_after_their_adapters_are_merged():
    """A merge would refill the zeros."""
    adapted: Any = get_peft_model(tiny_model("bert"), LORA)
    before = {name: p.clone() for name, p in adapted.named_parameters()}
    with pytest.raises(ValueError, match=r"query has an adapter.*merge_and_unload"):
        prune_model(adapted, 0.5, level="weight")
    assert all(torch.equal(p, before[name]) for name, p in adapted.named_parameters())
    report = prune_model(adapted.merge_and_unload(), 0.5, level="weight")
    assert report.sparsity == pytest.approx(0.5, abs=0.02)


# ---- prompts of a compact decoder --------------------------------------------------------------


def compact_decoder() -> Any:
    """Return a compact decoder with one KV head of eight features in each layer, of two."""
    model = tiny_model("llama")
    prune_model(model, 0.5, level="unit")
    return compact_model(model, multiple_of=1)


def prompted(kind: Any) -> Any:
    return get_peft_model(compact_decoder(), kind(task_type="CAUSAL_LM", num_virtual_tokens=3))


def learned(model: Any) -> list[str]:
    """Return the parameters that get a gradient."""
    model(**tiny_inputs(model)).logits.square().mean().backward()
    return [name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()]


def test_a_prefix_of_a_compact_decoder_has_too_many_heads():
    """The guide has these words of the error, and what works instead."""
    model = prompted(PrefixTuningConfig)
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        model(**tiny_inputs(model))


def test_a_compact_decoder_learns_a_prompt():
    assert learned(prompted(PromptTuningConfig)) == ["prompt_encoder.default.embedding.weight"]


def test_adapters_learn_on_a_compact_decoder():
    lora = LoraConfig(target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    names = learned(get_peft_model(compact_decoder(), lora))
    assert len(names) == 4
    assert all("lora_B" in name for name in names)


@pytest.mark.parametrize("first", ["adapters", "patch"])
def test_adapters_learn_in_a_fixed_phase(first, tmp_path):
    args = arguments(tmp_path, level="unit", targeting=0.5, fixed_sparsity=0.5, eval_sparsity=0.5)
    stock = tiny_model("bert")
    if first == "patch":
        patch_model(stock, args.targeted_dropout())
    model: Any = get_peft_model(stock, LoraConfig(target_modules=["query"]))
    trainer = TargetedDropoutTrainer(model, args, train_dataset=examples("bert", 16))
    trainer.train()
    dense = model.base_model.model.bert.encoder.layer[0].output.dense
    assert float((dense.weight == 0).float().mean()) == pytest.approx(0.5, abs=0.05)
    adapter = model.base_model.model.bert.encoder.layer[0].attention.self.query
    assert adapter.lora_B["default"].weight.all()
    metrics = trainer.evaluate(examples("bert", 4))
    assert metrics["eval_loss_at_0.5"] == metrics["eval_loss"]


def zeros_of(model: Any, **settings: Any) -> list[list[int]]:
    """Prune a model by half, and return the features that each consumer no longer reads."""
    prune_model(model, 0.5, **settings)
    weights = [p for n, p in model.named_parameters() if n.endswith("output.dense.weight")]
    return [(weight == 0).all(0).nonzero().flatten().tolist() for weight in weights]


def test_adapters_that_come_later_change_no_ranking_by_activation():
    model: Any = patch_model(tiny_model("bert"), level="unit", importance="activation", **SETTINGS)
    for update in range(2):
        anneal(model.train(), 0.5, update)
        model(**tiny_inputs(model))
    expected = zeros_of(copy.deepcopy(model))
    assert expected != zeros_of(copy.deepcopy(model), importance="magnitude")
    adapted: Any = get_peft_model(model, LoraConfig(target_modules=["query"]))
    assert zeros_of(adapted) == expected
