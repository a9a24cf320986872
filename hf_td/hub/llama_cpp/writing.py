"""Writes a Llama as GGUF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_td.hub.llama_cpp.names import EMBEDDING, FACTORS, HEAD, gguf_names, is_rotated
from hf_td.hub.llama_cpp.rotary import frequency_base, frequency_factors
from hf_td.hub.llama_cpp.tensors import DTYPES, in_pairs, to_array
from hf_td.hub.llama_cpp.vocabulary import add_vocabulary, import_gguf

# The architecture of llama.cpp with its own widths in each layer.
ARCHITECTURE = "deci"


def write_gguf(model: Any, file: Path, tokenizer: Path) -> None:
    """Write a model, compact or not, and its tokenizer.

    Args:
        model: of which `find_obstacle` finds none.
        file: to write; it is not flushed.
        tokenizer: a folder with the config, and the tokenizer if there is one.

    Raises:
        ImportError: the extra `gguf` is not installed.
        ValueError: llama.cpp does not know the tokenizer.
    """
    writer = import_gguf().GGUFWriter(file, ARCHITECTURE)
    try:
        _add_metadata(writer, model)
        add_vocabulary(writer, tokenizer)
        _add_tensors(writer, model)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def head_size_of(model: Any) -> int:
    """Return the size of a head, which all layers share."""
    return model.model.layers[0].self_attn.head_dim


def is_tied(model: Any) -> bool:
    """Return True if the logit layer is the embedding."""
    return model.get_submodule(HEAD).weight is model.get_submodule(EMBEDDING).weight


def _add_metadata(writer: Any, model: Any) -> None:
    config, layers, size = model.config, model.model.layers, head_size_of(model)
    gguf = import_gguf()
    writer.add_file_type(gguf.LlamaFileType[DTYPES[model.dtype][1]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(len(layers))
    writer.add_context_length(_context_length(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_vocab_size(model.get_submodule(EMBEDDING).num_embeddings)
    writer.add_head_count([x.self_attn.q_proj.weight.shape[0] // size for x in layers])
    writer.add_head_count_kv([x.self_attn.k_proj.weight.shape[0] // size for x in layers])
    writer.add_feed_forward_length([x.mlp.gate_proj.weight.shape[0] for x in layers])
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(frequency_base(config))


def _context_length(config: Any) -> int:
    """Return the longest input, at most the sliding window, which `deci` does not have."""
    window = getattr(config, "sliding_window", None)
    return min(config.max_position_embeddings, window or config.max_position_embeddings)


def _add_tensors(writer: Any, model: Any) -> None:
    kinds = import_gguf().GGMLQuantizationType
    weights, size = model.state_dict(), head_size_of(model)
    for name, stored in gguf_names(len(model.model.layers), tied=is_tied(model)).items():
        weight = in_pairs(weights[name], size) if is_rotated(name) else weights[name]
        array = to_array(weight)
        kind = DTYPES[weight.dtype][0] if weight.dim() > 1 else "F32"
        writer.add_tensor(stored, array, raw_dtype=kinds[kind])
    factors = frequency_factors(model.config, size)
    if factors is not None:
        writer.add_tensor(FACTORS, to_array(factors))
