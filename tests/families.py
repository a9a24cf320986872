"""The families that go the whole way in tests, and the results that are expected of each.

`scripts/families.py` writes the table of docs/families.md from the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import transformers as hf
from torch import Tensor
from transformers import PreTrainedModel

from tests.tiny import FAMILIES, IMAGE, SPECIAL, TEXT, VOCABULARY, with_random_biases

# Pruned heads are removed from the weights, or only masked if the forward of the family needs them
# all, or pruning of heads is refused.
Heads = Literal["removed", "masked", "refused"]
Form = Literal["stock", "compact"]

MULTI_QUERY = "its query heads share one key and value head, so there is one unit"
POSITION_BIAS = "a module layer.0.SelfAttention.relative_attention_bias"
MIXED = "its heads are mixed, as by a norm over all of them at once, so there is one unit"


@dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture.

    Attributes:
        title: its usual name.
        make: returns a tiny random model.
        layers: layout of its projections in parameters.
        neurons: the form that `export_model` chooses when only neurons are pruned.
        units: the form when half of the heads and half of the neurons are pruned.
        experts: the form when half of the experts are pruned; None without experts.
        heads: the effect of pruning on heads.
        why: the reason why heads are masked or refused, a part of the error.
        sizes: number of heads (or KV groups) and of neurons of the first layer.
        stacks: number of stacks of layers.
        first_layer: what the first layer has and others lack, so that it has to stay.
        no_layers: the reason why no whole layer can be removed.
    """

    title: str
    make: Callable[[], PreTrainedModel]
    layers: str = "Linear"
    neurons: Form = "stock"
    units: Form = "compact"
    experts: Form | None = None
    heads: Heads = "removed"
    why: str = ""
    sizes: tuple[int, int] = (4, 64)
    stacks: int = 1
    first_layer: str = ""
    no_layers: str = ""

    @property
    def unit_settings(self) -> dict[str, Any]:
        """Return the settings of `patch_model` and `prune_model` that prune all possible units."""
        refused = {"attention_level": "none"} if self.heads == "refused" else {}
        return {"level": "unit", **refused}


_GROUPED: dict[str, Any] = {**TEXT, "num_key_value_heads": 2}
TRANSLATOR: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "decoder_start_token_id": 0,
    **SPECIAL,
}
_FALCON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    **SPECIAL,
}


def _deberta() -> PreTrainedModel:
    positions: dict[str, Any] = {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 8,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
        "max_relative_positions": 16,
    }
    return hf.DebertaV2ForSequenceClassification(hf.DebertaV2Config(**TEXT, **positions))


def _opt() -> PreTrainedModel:
    config = hf.OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=64,
        word_embed_proj_dim=32,
        max_position_embeddings=64,
        **SPECIAL,
    )
    return hf.OPTForCausalLM(config)


def _bloom() -> PreTrainedModel:
    config = hf.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, **SPECIAL)
    return hf.BloomForCausalLM(config)


def _whisper() -> PreTrainedModel:
    config = hf.WhisperConfig(
        **{**TRANSLATOR, "decoder_start_token_id": 1},
        num_mel_bins=8,
        max_source_positions=16,
        max_target_positions=32,
    )
    return hf.WhisperForConditionalGeneration(config)


def _swin() -> PreTrainedModel:
    config = hf.SwinConfig(
        image_size=32,
        patch_size=4,
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
        mlp_ratio=2.0,
    )
    return hf.SwinForImageClassification(config)


def _dinov2() -> PreTrainedModel:
    sizes = {name: size for name, size in IMAGE.items() if name != "intermediate_size"}
    return hf.Dinov2ForImageClassification(hf.Dinov2Config(**sizes, mlp_ratio=2))


def _clip() -> PreTrainedModel:
    config = hf.CLIPConfig(
        text_config={**TEXT, "max_position_embeddings": 32},
        vision_config={**IMAGE},
        projection_dim=16,
    )
    return hf.CLIPModel(config)


def _wav2vec2() -> PreTrainedModel:
    convolutions: dict[str, Any] = {
        "conv_dim": (16, 16),
        "conv_stride": (5, 2),
        "conv_kernel": (10, 3),
        "num_feat_extract_layers": 2,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
    }
    config = hf.Wav2Vec2Config(**TEXT, **convolutions, mask_time_prob=0.0)
    return hf.Wav2Vec2ForCTC(config)


def _qwen3_moe() -> PreTrainedModel:
    experts: dict[str, Any] = {
        "head_dim": 8,
        "moe_intermediate_size": 32,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    }
    return hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(**_GROUPED, **experts))


def _gpt_oss() -> PreTrainedModel:
    config = hf.GptOssConfig(
        **_GROUPED,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        layer_types=["full_attention", "sliding_attention"],
    )
    return hf.GptOssForCausalLM(config)


TABLE: dict[str, Family] = {
    "bert": Family(title="BERT", make=FAMILIES["bert"]),
    "roberta": Family(title="RoBERTa", make=FAMILIES["roberta"]),
    "xlm_roberta": Family(
        title="XLM-RoBERTa",
        make=lambda: hf.XLMRobertaForSequenceClassification(hf.XLMRobertaConfig(**TEXT)),
    ),
    "electra": Family(
        title="ELECTRA",
        make=lambda: hf.ElectraForSequenceClassification(
            hf.ElectraConfig(**TEXT, embedding_size=16)
        ),
    ),
    "distilbert": Family(title="DistilBERT", make=FAMILIES["distilbert"]),
    "albert": Family(
        title="ALBERT",
        make=lambda: hf.AlbertForSequenceClassification(hf.AlbertConfig(**TEXT, embedding_size=16)),
        layers="Linear, one layer shared by all",
        no_layers="layer 0 is shared",
    ),
    "deberta_v2": Family(title="DeBERTa-v2, v3", make=_deberta),
    "modernbert": Family(
        title="ModernBERT",
        make=lambda: hf.ModernBertForSequenceClassification(
            hf.ModernBertConfig(**TEXT, cls_token_id=1, sep_token_id=2)
        ),
        layers="Linear, fused qkv and gate-up",
        first_layer="Identity as attn_norm",
    ),
    "mpnet": Family(
        title="MPNet",
        make=lambda: hf.MPNetForSequenceClassification(hf.MPNetConfig(**TEXT)),
    ),
    "gpt2": Family(
        title="GPT-2", make=FAMILIES["gpt2"], layers="Conv1D, fused qkv", sizes=(4, 128)
    ),
    "gpt_neox": Family(
        title="GPT-NeoX",
        make=lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**TEXT)),
        layers="Linear, qkv fused by head",
    ),
    "opt": Family(title="OPT", make=_opt),
    "bloom": Family(
        title="BLOOM",
        make=_bloom,
        layers="Linear, qkv fused by head",
        neurons="compact",
        heads="masked",
        why="its forward does not run with fewer heads",
        sizes=(4, 128),
    ),
    "falcon": Family(
        title="Falcon, new architecture",
        make=lambda: hf.FalconForCausalLM(
            hf.FalconConfig(**_FALCON, num_kv_heads=2, new_decoder_architecture=True)
        ),
        layers="FalconLinear, qkv fused by group",
        sizes=(2, 128),
    ),
    "falcon_multi_query": Family(
        title="Falcon, multi-query",
        make=lambda: hf.FalconForCausalLM(hf.FalconConfig(**_FALCON)),
        layers="FalconLinear, fused qkv",
        units="stock",
        heads="refused",
        why=MULTI_QUERY,
        sizes=(1, 128),
    ),
    "llama": Family(title="Llama", make=FAMILIES["llama"], units="stock", sizes=(2, 64)),
    "mistral": Family(
        title="Mistral",
        make=lambda: hf.MistralForCausalLM(hf.MistralConfig(**_GROUPED)),
        units="stock",
        sizes=(2, 64),
    ),
    "qwen2": Family(
        title="Qwen2",
        make=lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**_GROUPED)),
        units="stock",
        sizes=(2, 64),
    ),
    "qwen3": Family(
        title="Qwen3",
        make=lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**_GROUPED, head_dim=8)),
        units="stock",
        sizes=(2, 64),
    ),
    "gemma2": Family(
        title="Gemma 2",
        make=lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**_GROUPED, head_dim=8)),
        units="stock",
        sizes=(2, 64),
    ),
    "gemma3": Family(
        title="Gemma 3",
        make=lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**_GROUPED, head_dim=8)),
        units="stock",
        sizes=(2, 64),
    ),
    "olmo2": Family(
        title="OLMo 2",
        make=lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(**_GROUPED)),
        units="stock",
        heads="refused",
        why=MIXED,
        sizes=(1, 64),
    ),
    "phi": Family(title="Phi", make=lambda: hf.PhiForCausalLM(hf.PhiConfig(**TEXT)), units="stock"),
    "phi3": Family(
        title="Phi-3",
        make=lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**_GROUPED)),
        layers="Linear, fused qkv and gate-up",
        units="stock",
        sizes=(2, 64),
    ),
    "mixtral": Family(
        title="Mixtral",
        make=lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**_GROUPED, num_local_experts=4)),
        layers="Linear; experts 3-D",
        units="stock",
        experts="stock",
        sizes=(2, 64),
    ),
    "qwen3_moe": Family(
        title="Qwen3-MoE",
        make=_qwen3_moe,
        layers="Linear; experts 3-D",
        units="stock",
        experts="stock",
        sizes=(2, 32),
    ),
    "gpt_oss": Family(
        title="gpt-oss",
        make=_gpt_oss,
        layers="Linear; experts 3-D, transposed and interleaved",
        units="stock",
        experts="stock",
        sizes=(2, 64),
    ),
    "t5": Family(
        title="T5", make=FAMILIES["t5"], units="stock", stacks=2, first_layer=POSITION_BIAS
    ),
    "t5_gated": Family(
        title="T5, gated (v1.1)",
        make=FAMILIES["t5_gated"],
        units="stock",
        stacks=2,
        first_layer=POSITION_BIAS,
    ),
    "bart": Family(
        title="BART",
        make=lambda: hf.BartForConditionalGeneration(
            hf.BartConfig(**TRANSLATOR, max_position_embeddings=64)
        ),
        stacks=2,
    ),
    "marian": Family(
        title="Marian",
        make=lambda: hf.MarianMTModel(hf.MarianConfig(**TRANSLATOR, max_position_embeddings=64)),
        stacks=2,
    ),
    "whisper": Family(title="Whisper", make=_whisper, stacks=2),
    "vit": Family(title="ViT", make=FAMILIES["vit"], units="stock"),
    "deit": Family(
        title="DeiT",
        make=lambda: hf.DeiTForImageClassification(hf.DeiTConfig(**IMAGE)),
        units="stock",
    ),
    "dinov2": Family(title="DINOv2", make=_dinov2, units="stock"),
    "swin": Family(
        title="Swin",
        make=_swin,
        sizes=(2, 32),
        no_layers="no field of its config can say that it has fewer layers",
    ),
    "clip": Family(title="CLIP", make=_clip, stacks=2),
    "wav2vec2": Family(title="Wav2Vec2", make=_wav2vec2),
}


def tiny_family(name: str, seed: int = 0) -> PreTrainedModel:
    """Return a tiny random model in eval mode, with biases that are not zero."""
    torch.manual_seed(seed)
    return with_random_biases(TABLE[name].make()).eval()


def family_inputs(model: Any, batch: int = 2) -> dict[str, Tensor]:
    """Return random inputs of a forward, by the names of the model's arguments."""
    draw = torch.Generator().manual_seed(0)
    config = model.config
    ids = torch.randint(3, VOCABULARY, (batch, 7), generator=draw)
    size = getattr(getattr(config, "vision_config", config), "image_size", 1)
    makers: dict[str, Callable[[], Tensor]] = {
        "input_ids": lambda: ids,
        "pixel_values": lambda: torch.rand(batch, 3, size, size, generator=draw),
        "input_features": lambda: torch.rand(batch, config.num_mel_bins, 32, generator=draw),
        "input_values": lambda: torch.rand(batch, 120, generator=draw),
        "decoder_input_ids": lambda: ids[:, :5],
    }
    return {name: makers[name]() for name in _arguments(model)}


def _arguments(model: Any) -> Iterator[str]:
    yield model.main_input_name
    if model.config.is_encoder_decoder:
        yield "decoder_input_ids"
    if hasattr(model.config, "vision_config"):
        yield "pixel_values"


def family_outputs(model: Any) -> dict[str, Tensor]:
    """Return the output of a model and, if it can generate, the generated tokens."""
    inputs = family_inputs(model)
    with torch.no_grad():
        found = {"output": model(**inputs)[0]}
        if model.can_generate():
            found["generated"] = model.generate(
                **_prompt(inputs), do_sample=False, max_new_tokens=6
            )
    return found


def _prompt(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    given = {name: value for name, value in inputs.items() if not name.startswith("decoder_")}
    if "input_ids" in given:
        given["attention_mask"] = torch.ones_like(given["input_ids"])
    return given
