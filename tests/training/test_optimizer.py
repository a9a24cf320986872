"""The parameters that get their own learning rate."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from transformers import (
    Adafactor,
    SwitchTransformersConfig,
    SwitchTransformersForConditionalGeneration,
)

from hf_td.training.optimizer import scale_untargeted
from tests.tiny import tiny_model


def scaled_names(model: Any) -> set[str]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scale_untargeted(optimizer, model, 3.0)
    assert {group["lr"] for group in optimizer.param_groups} == {1.0, 3.0}
    scaled = {id(p) for g in optimizer.param_groups if g["lr"] == 3.0 for p in g["params"]}
    return {name for name, p in model.named_parameters() if id(p) in scaled}


def test_an_optimizer_without_a_learning_rate_is_refused():
    model = tiny_model("bert")
    optimizer = Adafactor(model.parameters())
    with pytest.raises(ValueError, match="Adafactor has none: lr is None"):
        scale_untargeted(optimizer, model, 3.0)


def small(model: Any) -> set[str]:
    return {name for name, p in model.named_parameters() if p.dim() == 1}


def test_norms_biases_and_what_is_outside_of_the_base_model():
    model = tiny_model("bert")
    assert scaled_names(model) == small(model) | {"classifier.weight"}


@pytest.mark.parametrize("tied", [True, False])
def test_the_logit_layer_inside_a_base_model_if_it_shares_nothing_with_the_embeddings(tied):
    config = SwitchTransformersConfig(
        vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, num_experts=2
    )
    config.tie_word_embeddings = tied
    model = SwitchTransformersForConditionalGeneration(config)
    assert model.base_model is model
    assert scaled_names(model) == small(model) | (set() if tied else {"lm_head.weight"})


def test_no_group_is_left_empty():
    """A sharded checkpoint loses the settings of a group without parameters."""
    model = tiny_model("bert")
    decayed = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    scale_untargeted(optimizer, model, 3.0)
    found = [(g["lr"], g["weight_decay"], len(g["params"])) for g in optimizer.param_groups]
    assert found == [(1.0, 0.1, len(decayed) - 1), (3.0, 0.0, len(rest)), (3.0, 0.1, 1)]


def test_the_head_of_a_model_with_adapters():
    model: Any = peft.get_peft_model(
        tiny_model("bert"),
        peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"]),
    )
    names = {n for n in scaled_names(model) if "classifier" in n and "original" not in n}
    assert names == {
        f"base_model.model.classifier.modules_to_save.default.{n}" for n in ("weight", "bias")
    }
    assert not any("lora" in name for name in scaled_names(model))
