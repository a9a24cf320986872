"""The trainings that are compared: one process against several with shards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)

from hf_td import Schedule, patch_model

SEED = 0
VOCABULARY = 256


@dataclass(frozen=True)
class Case:
    """A training that is run by one process and by several.

    Attributes:
        name: the row of the table.
        family: a key of `FAMILIES`.
        settings: of `patch_model`, beside `SETTINGS`.
        teacher: where the weights of a teacher are, which gives half of the loss: in every process
            or sharded; None without a teacher.
        adapters: train LoRA adapters alone.
        micro_batches: forwards and backwards of an update.
        reshard: free the weights of a block after its forward.
        checkpointing: recompute the activations of each block in the backward.
    """

    name: str
    family: str = "llama"
    settings: dict[str, Any] = field(default_factory=dict)
    teacher: Literal["whole", "sharded"] | None = None
    adapters: bool = False
    micro_batches: int = 1
    reshard: bool = True
    checkpointing: bool = False


# Half of the candidates are dropped, and three of ten updates are dense.
SETTINGS: dict[str, Any] = {
    "targeting": 0.5,
    "targeting_schedule": Schedule(shape="linear", initial=0.5, off=0.3),
    "drop_rate": 0.5,
    "importance": "magnitude",
}
ALWAYS: dict[str, Any] = {"targeting_schedule": "constant", "drop_rate": 1.0}
_ACTIVATION = {"importance": "activation"}

CASES = (
    Case("weights, all candidates dropped", settings={"level": "weight", **ALWAYS}),
    Case("units, all candidates dropped", settings={"level": "unit", **ALWAYS}),
    Case("weights", settings={"level": "weight"}),
    Case("units", settings={"level": "unit"}),
    Case("weights of an encoder", "bert", {"level": "weight"}),
    Case("units of an encoder", "bert", {"level": "unit"}),
    Case("weights by activation", settings={"level": "weight", **_ACTIVATION}),
    Case("units by activation", settings={"level": "unit", **_ACTIVATION}),
    Case("pattern 2:4", settings={"level": "weight", "pattern": "2:4", "targeting": 0.5}),
    Case("weights of Conv1D", "gpt2", {"level": "weight"}),
    Case("weights of experts", "mixtral", {"level": "weight"}),
    Case("whole experts", "mixtral", {"level": "unit", "experts_level": "unit"}),
    Case("weights, distilled", settings={"level": "weight"}, teacher="whole"),
    Case("units, distilled, teacher sharded", settings={"level": "unit"}, teacher="sharded"),
    Case("units, LoRA adapters", settings={"level": "unit"}, adapters=True),
    Case("weights, four micro-batches", settings={"level": "weight"}, micro_batches=4),
    Case("units, blocks stay gathered", settings={"level": "unit"}, reshard=False),
    Case("weights, activations recomputed", settings={"level": "weight"}, checkpointing=True),
)

_DECODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
_ENCODER: dict[str, Any] = {k: v for k, v in _DECODER.items() if k != "num_key_value_heads"}
_NO_DROPOUT: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def _bert() -> PreTrainedModel:
    none: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertForMaskedLM(BertConfig(**_ENCODER, **none))


def _gpt2() -> PreTrainedModel:
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=64,
        n_layer=2,
        n_head=8,
        bos_token_id=0,
        eos_token_id=0,
        **_NO_DROPOUT,
    )
    return GPT2LMHeadModel(config)


def _mixtral() -> PreTrainedModel:
    return MixtralForCausalLM(MixtralConfig(**_DECODER, num_local_experts=8))


# Without other dropout, whose draws depend on the process.
FAMILIES = {
    "bert": _bert,
    "gpt2": _gpt2,
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_DECODER)),
    "mixtral": _mixtral,
}


def student_of(case: Case) -> nn.Module:
    """Return the patched model of a case, with equal weights in every process."""
    torch.manual_seed(SEED)
    model: Any = FAMILIES[case.family]()
    if case.adapters:
        # Not the usual start at 0, where half of the adapters' gradients vanish.
        lora = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        model = get_peft_model(model, lora)
    return patch_model(model, **{**SETTINGS, **case.settings})


def teacher_of(case: Case) -> nn.Module | None:
    """Return the teacher of a case: a dense model with other weights."""
    if case.teacher is None:
        return None
    torch.manual_seed(SEED + 1)
    return FAMILIES[case.family]().eval().requires_grad_(False)
