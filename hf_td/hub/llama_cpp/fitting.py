"""Decides if a model fits into a file of llama.cpp's architecture `deci`."""

from __future__ import annotations

from typing import Any

from hf_td.hub.llama_cpp.names import gguf_names
from hf_td.hub.llama_cpp.rotary import STATIC, scaling_of
from hf_td.hub.llama_cpp.tensors import DTYPES

# Classes that compute what a Llama computes. Another with the same tensors is another entry.
CLASSES = ("LlamaForCausalLM", "MistralForCausalLM")


def find_obstacle(model: Any) -> str | None:
    """Return why a file of llama.cpp cannot hold a model, or None if it can."""
    if type(model).__name__ not in CLASSES:
        return f"it is {type(model).__name__}, and {' and '.join(CLASSES)} can be written"
    config, weights = model.config, model.state_dict()
    strange = sorted(weights.keys() - gguf_names(config.num_hidden_layers, tied=False))
    if strange:
        return f"it has {strange[0]}, which llama.cpp has no place for"
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act}, and llama.cpp computes silu"
    if scaling_of(config) not in STATIC or config.rope_parameters.get("partial_rotary_factor"):
        return f"its rotary embedding is scaled by more than one of {', '.join(STATIC)}"
    others = {weight.dtype for weight in weights.values()} - DTYPES.keys()
    if others:
        return f"it has weights of {others.pop()}, not of float32, float16 or bfloat16"
    return None
