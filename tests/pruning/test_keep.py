"""A pruned model trains on, and its zeros stay."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments

from hf_td import keep_pruned, patch_model, prune_model, unpatch_model
from hf_td.pruning import zeros_restored
from tests.tiny import tiny_inputs, tiny_model

FAMILIES = ["bert", "gpt2", "llama", "t5"]


def pruned_weights(model: Any, **settings: Any) -> dict[str, Tensor]:
    """Prune a model, and return where its matrices are zero, by name."""
    prune_model(model, 0.5, **settings)
    return zeros(model)


def zeros(model: Any) -> dict[str, Tensor]:
    found = {name: p == 0 for name, p in model.named_parameters() if p.dim() > 1}
    return {name: mask for name, mask in found.items() if mask.any() and "embed" not in name}


def train(model: Any, optimizer: torch.optim.Optimizer, updates: int = 3) -> None:
    model.train()
    for _ in range(updates):
        loss = model(**tiny_inputs(model)).logits.square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "settings", [{"level": "weight"}, {"level": "weight", "pattern": "2:4"}, {"level": "unit"}]
)
def test_zeros_stay_and_the_rest_learns(family, settings):
    model = tiny_model(family)
    expected = pruned_weights(model, **settings)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    kept = keep_pruned(model)
    assert kept.entries > 1000
    train(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    now = dict(model.named_parameters())
    for name, mask in expected.items():
        assert torch.equal(now[name] == 0, mask), name
        assert (now[name] != before[name])[~mask].float().mean() > 0.9, name


def test_without_it_zeros_are_filled_and_so_they_are_afterwards():
    model = tiny_model("bert")
    expected = pruned_weights(model, level="weight")
    with keep_pruned(model):
        train(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    assert all(map(torch.equal, zeros(model).values(), expected.values()))
    train(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    assert sum(int(mask.sum()) for mask in zeros(model).values()) < 100


def test_biases_of_pruned_units_stay_zero_and_others_that_are_zero_learn():
    model = tiny_model("bert")
    prune_model(model, 0.5, level="unit", attention_level=None)
    layer: Any = model.bert.encoder.layer[0]  # type: ignore[attr-defined]
    up = layer.intermediate.dense
    gone = (up.weight == 0).all(1)
    assert gone.sum() == 32
    with torch.no_grad():
        up.bias.zero_()
    keep_pruned(model)
    up.bias.register_hook(torch.ones_like)  # a gradient even where no consumer reads
    train(model, torch.optim.SGD(model.parameters(), lr=1e-2))
    assert torch.equal(up.bias == 0, gone)


def test_the_trainer_keeps_zeros(tmp_path):
    model = tiny_model("bert")
    expected = pruned_weights(model, level="weight")
    keep_pruned(model)
    row = {name: value[0] for name, value in tiny_inputs(model).items()} | {"labels": 1}
    settings = TrainingArguments(
        output_dir=str(tmp_path), max_steps=3, learning_rate=1e-2, report_to=[], use_cpu=True
    )
    Trainer(model, settings, train_dataset=[row] * 8).train()  # type: ignore[arg-type]
    assert all(map(torch.equal, zeros(model).values(), expected.values()))


def test_merged_adapters_leave_the_zeros():
    model = tiny_model("llama")
    expected = pruned_weights(model, level="weight")
    targets = ["q_proj", "up_proj"]
    adapted: Any = peft.get_peft_model(model, peft.LoraConfig(target_modules=targets))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    with zeros_restored(adapted):
        merged = adapted.merge_and_unload()
    now = zeros(merged)
    assert now.keys() == expected.keys()
    assert all(torch.equal(now[name], mask) for name, mask in expected.items())


def test_a_model_trained_by_targeted_dropout_goes_on_after_pruning():
    model = tiny_model("bert")
    patch_model(model, level="weight")
    expected = pruned_weights(model)
    unpatch_model(model)
    keep_pruned(model)
    train(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    assert all(map(torch.equal, zeros(model).values(), expected.values()))


def test_a_model_without_zeros_is_refused():
    with pytest.raises(ValueError, match="prune it first"):
        keep_pruned(tiny_model("bert"))


def test_adapters_learn_beside_zeros_that_stay():
    model = tiny_model("llama")
    expected = pruned_weights(model, level="weight")
    adapted: Any = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))
    for parameter in model.get_submodule("model.layers.0.mlp").parameters():
        parameter.requires_grad_(True)
    keep_pruned(adapted)
    train(adapted, torch.optim.AdamW(adapted.parameters(), lr=1e-2))
    learned = [p for name, p in adapted.named_parameters() if "lora_B" in name]
    assert learned
    assert all((p != 0).any() for p in learned)
    now = {name: p for name, p in adapted.named_parameters() if "layers.0.mlp" in name}
    assert now
    for name, weight in now.items():
        assert torch.equal(weight == 0, expected[name.removeprefix("base_model.model.")]), name


def test_a_head_that_begins_at_zero_learns():
    model: Any = tiny_model("bert")
    expected = pruned_weights(model, level="weight")
    torch.nn.init.zeros_(model.classifier.weight)
    keep_pruned(model)
    train(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    assert (model.classifier.weight != 0).all()
    assert all(torch.equal(zeros(model)[name], mask) for name, mask in expected.items())


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Muon])
def test_zeros_stay_under_an_optimiser_that_mixes_entries(kind):
    model = tiny_model("bert")
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "encoder" in n]
    expected = pruned_weights(model, level="weight")
    optimizer = kind(matrices, lr=1e-2)
    with keep_pruned(model, optimizer):
        train(model, optimizer)
        now = dict(model.named_parameters())
        for name, mask in expected.items():
            assert torch.equal(now[name] == 0, mask), name
    assert not optimizer._optimizer_step_pre_hooks
    train(model, optimizer)
    assert any(not torch.equal(now[name] == 0, mask) for name, mask in expected.items())


@pytest.mark.parametrize("rates", [[0, 1, 1, 0, 1], [1, 0, 1]])
def test_zeros_stay_where_the_learning_rate_is_zero_in_between(rates):
    model = tiny_model("bert")
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "encoder" in n]
    expected = pruned_weights(model, level="weight")
    optimizer = torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.0)
    with keep_pruned(model, optimizer):
        for rate in rates:
            optimizer.param_groups[0]["lr"] = rate * 1e-2
            train(model, optimizer, updates=1)
    now = dict(model.named_parameters())
    assert all(torch.equal(now[name] == 0, mask) for name, mask in expected.items())


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Muon])
def test_zeros_stay_in_layers_that_are_unfrozen_later(kind):
    model: Any = tiny_model("bert")
    expected = pruned_weights(model, level="weight")
    names = {n: p for n, p in model.named_parameters() if p.dim() == 2 and "encoder" in n}
    first = {n: p for n, p in names.items() if "layer.0" in n}
    for parameter in first.values():
        parameter.requires_grad_(False)
    optimizer = kind([p for n, p in names.items() if n not in first], lr=1e-2)
    with keep_pruned(model, optimizer):
        assert not any(p.requires_grad for p in first.values())
        train(model, optimizer, updates=2)
        optimizer.add_param_group({"params": [p.requires_grad_(True) for p in first.values()]})
        before = {name: p.detach().clone() for name, p in first.items()}
        train(model, optimizer, updates=2)
    now = dict(model.named_parameters())
    assert all(torch.equal(now[name] == 0, mask) for name, mask in expected.items())
    assert all(not torch.equal(p, before[name]) for name, p in first.items())


def test_a_frozen_body_stays_pruned_and_its_biases_learn():
    model: Any = tiny_model("bert")
    expected = pruned_weights(model, level="unit")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))
    bias = model.bert.encoder.layer[0].intermediate.dense.bias
    empty = model.bert.encoder.layer[0].intermediate.dense.weight.eq(0).all(1)
    kept = keep_pruned(model)
    assert kept.active
    assert kept.entries > 1000
    train(model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2))
    assert zeros(model).keys() == expected.keys()
    assert empty.any()
    assert not bias[empty].any()
    assert bias[~empty].all()
    kept.remove()
    assert not kept.active
