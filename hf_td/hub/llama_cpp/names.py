"""Names of the tensors of a Llama, in Transformers and in GGUF."""

from __future__ import annotations

EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
_WHOLE = {EMBEDDING: "token_embd", "model.norm": "output_norm", HEAD: "output"}
_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTPUT = f"{_WHOLE[HEAD]}.weight"
# Divides the frequencies of the rotary embedding; a model of Transformers has no such tensor.
FACTORS = "rope_freqs.weight"


def gguf_names(layers: int, *, tied: bool) -> dict[str, str]:
    """Return the name in GGUF of each parameter of a Llama, by its name in Transformers.

    Args:
        layers: number of layers.
        tied: True if the logit layer is the embedding, which is stored once.
    """
    names = {name: stored for name, stored in _WHOLE.items() if not (tied and name == HEAD)}
    for index in range(layers):
        for name, stored in _LAYER.items():
            names[f"model.layers.{index}.{name}"] = f"blk.{index}.{stored}"
    return {f"{name}.weight": f"{stored}.weight" for name, stored in names.items()}


def is_rotated(name: str) -> bool:
    """Return True for the weights of queries and keys, by their name in Transformers."""
    return name.endswith(("self_attn.q_proj.weight", "self_attn.k_proj.weight"))
