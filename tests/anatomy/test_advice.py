"""Every refusal gives the true reason, and advice that works at once when it is followed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers as hf

from hf_td import FeedForwardBlocks, patch_model, prune_model, read_anatomy, register_family
from hf_td.baselines import VariationalDropout, attach_baseline
from hf_td.config import TargetedDropoutConfig
from tests.experts.mixtures import mixture, routers_of
from tests.families import tiny_family
from tests.tiny import SPECIAL, TEXT, tiny_model

MIXED = "its heads are mixed, as by a norm over all of them at once, so there is one unit"
SHARED = "its query heads share one key and value head, so there is one unit"
READ = "is also read elsewhere in the model"


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_td.anatomy.registry._FAMILIES", {})


def olmo2(**changes: Any) -> Any:
    return hf.Olmo2ForCausalLM(hf.Olmo2Config(**{**TEXT, **changes}))


def deepseek(**changes: Any) -> Any:
    latent: dict[str, Any] = {
        "q_lora_rank": 16,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
    }
    config = hf.DeepseekV3Config(**{**TEXT, **latent, "num_key_value_heads": 4, **changes})
    return hf.DeepseekV3ForCausalLM(config)


def mobilebert() -> Any:
    sizes = {**TEXT, "intra_bottleneck_size": 16, "embedding_size": 16}
    return hf.MobileBertModel(hf.MobileBertConfig(**sizes))


def mamba() -> Any:
    config = hf.MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, **SPECIAL)
    return hf.MambaForCausalLM(config)


def described() -> Any:
    register_family(
        "llama",
        FeedForwardBlocks(
            path="layers.*.mlp", gate="gate_proj", up="up_proj", down="down_proj", obstacle="a why"
        ),
    )
    return tiny_model("llama")


def odd_inputs() -> Any:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**{**TEXT, "intermediate_size": 66}))


# Name to model, settings, the reason, and the advice.
REFUSED: dict[str, tuple[Callable[[], Any], dict[str, Any], str, str]] = {
    "norms over all heads": (olmo2, {"level": "unit"}, MIXED, "attention_level='none'"),
    "norms over all of few heads": (
        lambda: olmo2(num_key_value_heads=2),
        {"level": "unit"},
        MIXED,
        "attention_level='none'",
    ),
    "norms over one key head": (
        lambda: olmo2(num_key_value_heads=1),
        {"attention_level": "unit"},
        MIXED,
        "attention_level='none'",
    ),
    "one key head": (
        lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT, num_key_value_heads=1)),
        {"level": "unit"},
        SHARED,
        "attention_level='none'",
    ),
    "one key head, nothing else": (
        lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT, num_key_value_heads=1)),
        {"attention_level": "unit", "feed_forward_level": "none"},
        SHARED,
        "attention_level='weight'",
    ),
    "a shared part of keys": (
        deepseek,
        {"level": "unit"},
        f"self_attn.kv_a_proj_with_mqa {READ}",
        "attention_level='none'",
    ),
    "bottlenecks": (mobilebert, {"level": "unit"}, READ, "exclude="),
    "bottlenecks, and something excluded": (
        mobilebert,
        {"level": "unit", "exclude": ["*.0.attention.output.dense"]},
        READ,
        r"exclude=\['\*.0.attention.output.dense', ",
    ),
    "no unit at all": (mamba, {"level": "unit"}, READ, "attention_level='weight'"),
    "a description": (described, {"level": "unit"}, "a why", "feed_forward_level='none'"),
    "a router": (
        deepseek,
        {"level": "weight", "experts_level": "unit"},
        "a buffer with an entry for each expert",
        "experts_level='none'",
    ),
    "a router, nothing else": (
        deepseek,
        {"attention_level": "none", "feed_forward_level": "none", "experts_level": "unit"},
        "a buffer with an entry for each expert",
        "experts_level='none', feed_forward_level='weight'",
    ),
    "no mixture": (
        lambda: tiny_model("bert"),
        {"experts_level": "unit"},
        "BertForSequenceClassification has none",
        "experts_level='none'",
    ),
    "inputs that a pattern does not divide": (
        odd_inputs,
        {"level": "weight", "pattern": "2:4"},
        "the 66 inputs of model.layers.0.mlp.down_proj cannot be split",
        "exclude=",
    ),
}


def advice_in(message: str) -> dict[str, Any]:
    """Return the settings that a message advises, as keyword arguments."""
    text = re.split(r"\b[Uu]se ", message)[-1]
    return eval(f"dict({text})")


@pytest.mark.parametrize("name", REFUSED)
def test_the_advice_of_a_refusal_works_at_once(name):
    make, settings, reason, advice = REFUSED[name]
    for take in (patch_model, lambda model, **how: prune_model(model, 0.5, **how)):
        with pytest.raises(ValueError, match=f"{reason}.*{advice}") as refused:
            take(make(), **settings)
        take(make(), **{**settings, **advice_in(str(refused.value))})


def test_a_model_with_one_head_is_not_refused():
    for config in (
        hf.LlamaConfig(**{**TEXT, "num_attention_heads": 1}),
        hf.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=1, **SPECIAL),
    ):
        blocks = read_anatomy(hf.AutoModelForCausalLM.from_config(config)).blocks
        heads = [(b.units, b.obstacle) for b in blocks if b.part == "attention"]
        assert heads == [(1, None)] * 2


def test_rows_of_zeros_in_several_routers_are_left_out_at_once():
    model = mixture("mixtral")
    with torch.no_grad():
        for router in routers_of(model):
            router.weight[3] = 0
    settings: dict[str, Any] = {"level": "weight", "experts_level": "unit"}
    with pytest.raises(ValueError, match=r"are all zeros.*exclude=\['model.layers.\*.") as refused:
        patch_model(model, **settings)
    patch_model(model, **{**settings, **advice_in(str(refused.value))})


def test_experts_of_several_layers_are_left_out_at_once():
    settings: dict[str, Any] = {"level": "weight"}
    with pytest.raises(TypeError, match=r"cannot reach .*exclude=") as refused:
        attach_baseline(mixture("mixtral"), VariationalDropout(), TargetedDropoutConfig(**settings))
    text = str(refused.value).rpartition("Pass ")[2]
    settings |= eval(f"dict({text})")
    attach_baseline(mixture("mixtral"), VariationalDropout(), TargetedDropoutConfig(**settings))


def test_a_block_that_is_refused_in_one_layer_is_left_out_there_alone():
    model: Any = tiny_family("bart")
    anatomy = read_anatomy(model)
    first = replace(anatomy.blocks[0], obstacle="of the test")
    anatomy = replace(anatomy, blocks=(first, *anatomy.blocks[1:]))
    message = rf"of the test. Use exclude=\['{first.consumer.module}'\]"
    with pytest.raises(ValueError, match=message) as refused:
        patch_model(model, level="unit", anatomy=anatomy)
    patch_model(model, level="unit", anatomy=anatomy, **advice_in(str(refused.value)))
