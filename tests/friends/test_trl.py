"""TRL's trainers train a patched model with the callback; what is pruned afterwards loads again."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from hf_td import TargetedDropoutCallback, compact_model, patch_model, prune_model, unpatch_model
from tests.friends.helpers import (
    QUIET,
    RISING,
    UPDATES,
    DroppedGradients,
    assert_logged,
    friend,
    sentences,
    tiny_tokenizer,
)
from tests.tiny import tiny_inputs, tiny_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the libraries, about each other
]
every_level = pytest.mark.parametrize("level", ["weight", "unit"])
TEXTS = {"text": sentences(16)}
PAIRS = {
    "prompt": sentences(16),
    "chosen": [f" {text}" for text in sentences(16, 1)],
    "rejected": [f" {text}" for text in sentences(16, 2)],
}
ARGUMENTS: dict[str, Any] = {**QUIET, "bf16": False, "save_strategy": "no"}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**tiny_inputs(model)).logits


def sft(model: Any, folder: Any, callbacks: Any, **options: Any) -> Any:
    trl = friend("trl")
    return trl.SFTTrainer(
        model,
        args=trl.SFTConfig(str(folder), **ARGUMENTS),
        train_dataset=Dataset.from_dict(TEXTS),
        processing_class=tiny_tokenizer(),
        callbacks=callbacks,
        **options,
    )


def dpo(model: Any, folder: Any, callbacks: Any, **options: Any) -> Any:
    trl = friend("trl")
    return trl.DPOTrainer(
        model,
        args=trl.DPOConfig(str(folder), **ARGUMENTS),
        train_dataset=Dataset.from_dict(PAIRS),
        processing_class=tiny_tokenizer(),
        callbacks=callbacks,
        **options,
    )


def trained(make: Any, model: Any, folder: Any, **options: Any) -> Any:
    check = DroppedGradients(model)
    trainer = make(model, folder, [TargetedDropoutCallback(), check], **options)
    trainer.train()
    check.assert_annealed()
    assert_logged(trainer.state.log_history)
    return trainer


@every_level
@pytest.mark.parametrize("importance", ["magnitude", "activation"])
def test_supervised_fine_tuning_and_preferences_of_one_model(level, importance, tmp_path):
    model = patch_model(tiny_model("llama"), level=level, importance=importance, **RISING)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained(sft, model, tmp_path)
    assert not all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    reference = unpatch_model(copy.deepcopy(model))
    trainer = trained(dpo, model, tmp_path, ref_model=reference)
    first = trainer.state.log_history[0]
    assert first["rewards/margins"] == 0  # nothing is dropped yet: policy and reference are equal

    unpatch_model(model)
    prune_model(model, 0.5, level=level)
    if level == "unit":
        compact_model(model, multiple_of=1)
    expected = logits(model)
    model.save_pretrained(tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert_close(logits(again), expected, rtol=0, atol=0)


def test_a_compact_policy_is_given_its_reference(tmp_path):
    """Without `ref_model` TRL loads a model by the name in the config."""
    dense = tmp_path / "dense"
    tiny_model("llama").save_pretrained(dense)
    tiny_tokenizer().save_pretrained(dense)
    model: Any = AutoModelForCausalLM.from_pretrained(dense)
    prune_model(model, 0.5, level="unit")
    compact_model(model, multiple_of=1)
    trainer = dpo(model, tmp_path, [], ref_model=copy.deepcopy(model))
    assert_close(logits(trainer.ref_model), logits(model), rtol=0, atol=0)
    trainer.train()
    history = trainer.state.log_history
    assert history[0]["rewards/margins"] == 0
    assert len([entry for entry in history if "rewards/margins" in entry]) == UPDATES


def test_adapters_of_a_patched_model_learn_preferences_against_it(tmp_path):
    """With adapters TRL takes the model without them as the reference."""
    model = patch_model(tiny_model("llama"), **RISING)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    lora = LoraConfig(target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    trainer = dpo(model, tmp_path, [TargetedDropoutCallback()], peft_config=lora)
    trainer.train()
    assert_logged(trainer.state.log_history)
    after = dict(trainer.model.named_parameters())
    assert all(torch.equal(after[f"base_model.model.{_in_peft(n)}"], p) for n, p in before.items())
    assert any("lora_B" in name and p.any() for name, p in after.items())


def _in_peft(name: str) -> str:
    for layer in ("q_proj", "v_proj"):
        name = name.replace(f"{layer}.weight", f"{layer}.base_layer.weight")
    return name
