"""Tiny random models, one for each family that is tested by name. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedModel, PreTrainedTokenizerFast

VOCABULARY = 64
# By the names that most configs have for them.
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
SPECIAL: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
TEXT: dict[str, Any] = {"vocab_size": VOCABULARY, **SIZES, **SPECIAL}
IMAGE: dict[str, Any] = {**SIZES, "image_size": 16, "patch_size": 4}
_T5: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}

# Family to (model class, config). Another family is another row.
FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": lambda: hf.BertForSequenceClassification(hf.BertConfig(**TEXT)),
    "roberta": lambda: hf.RobertaForSequenceClassification(hf.RobertaConfig(**TEXT)),
    "distilbert": lambda: hf.DistilBertForSequenceClassification(
        hf.DistilBertConfig(vocab_size=VOCABULARY, dim=32, n_layers=2, n_heads=4, hidden_dim=64)
    ),
    "gpt2": lambda: hf.GPT2LMHeadModel(
        hf.GPT2Config(
            vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, **SPECIAL
        )
    ),
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT, num_key_value_heads=2)),
    "t5": lambda: hf.T5ForConditionalGeneration(hf.T5Config(**_T5)),
    "t5_gated": lambda: hf.T5ForConditionalGeneration(
        hf.T5Config(**_T5, feed_forward_proj="gated-gelu")
    ),
    "vit": lambda: hf.ViTForImageClassification(hf.ViTConfig(**IMAGE)),
}


def tiny_model(family: str, seed: int = 0) -> PreTrainedModel:
    """A tiny random model in eval mode, with biases that are not zero."""
    torch.manual_seed(seed)
    return with_random_biases(FAMILIES[family]()).eval()


def with_random_biases(model: PreTrainedModel) -> PreTrainedModel:
    """The model itself, with biases that are not zero."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def checkpoint_activations(model: Any, **how: Any) -> None:
    """Recompute activations in the backward; the name of that is new in transformers 5.23."""
    named = "activation_checkpointing_enable"
    enable = getattr(model, named if hasattr(model, named) else "gradient_checkpointing_enable")
    enable(how or None)


def tiny_inputs(model: PreTrainedModel, batch: int = 2, length: int = 7) -> dict[str, Any]:
    """Random inputs for a forward of a tiny model."""
    generator = torch.Generator().manual_seed(0)
    if model.main_input_name == "pixel_values":
        size = model.config.image_size
        return {"pixel_values": torch.rand(batch, 3, size, size, generator=generator)}
    ids = torch.randint(3, VOCABULARY, (batch, length), generator=generator)
    decoder = {"decoder_input_ids": ids[:, :5]} if model.config.is_encoder_decoder else {}
    return {"input_ids": ids, **decoder}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of one word."""
    words = WordLevel({"[PAD]": 0, "[UNK]": 1, "word": 2}, unk_token="[UNK]")
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(words), pad_token="[PAD]", unk_token="[UNK]"
    )
