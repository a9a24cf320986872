"""Computes the memory of a rank and the traffic of an update under FSDP2, from real configs.

Nothing is measured here. The shapes are those of a model that is built without memory. Optimiser:
AdamW with float32 weights; forwards and backwards in bf16. Activations of the batch are left out.
They are the same with and without targeted dropout.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from hf_td.ranking.activations import INTERVAL

_LLAMA: dict[str, dict[str, Any]] = {
    "1B": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": True,
    },
    "7B": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32000,
        "tie_word_embeddings": False,
    },
    "70B": {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 32000,
        "tie_word_embeddings": False,
    },
}
SIZES = tuple(_LLAMA)
RANKS = (8, 64)
BF16, FLOAT = 2, 4
# Of a weight and its optimiser: the weight, its gradient, and the two averages of AdamW.
_SHARDED_FLOATS = 4


@dataclass(frozen=True)
class Shapes:
    """The numbers of a decoder's weights.

    Attributes:
        parameters: all of them; tied ones count once.
        block: the parameters of one block.
        root: the parameters outside of the blocks, which are gathered together.
        targeted: the weights that targeted dropout ranks at the weight level.
        rows: their outputs, each of which has a cut-off.
        producer_rows: the outputs of the projections that units are ranked by (q, k, v, gate, up).
        consumer_features: the inputs of those that read units (o, down).
        features: the inputs of all targeted projections.
        largest: the weights of the largest targeted projection.
    """

    parameters: int
    block: int
    root: int
    targeted: int
    rows: int
    producer_rows: int
    consumer_features: int
    features: int
    largest: int


def shapes_of(config: LlamaConfig) -> Shapes:
    """Return the numbers of a Llama with this config, from one block on the device meta."""
    alone = copy.deepcopy(config)
    alone.num_hidden_layers = 1
    with torch.device("meta"):
        model = LlamaForCausalLM(alone)
    block, blocks = model.model.layers[0], config.num_hidden_layers
    linears = {n: m for n, m in block.named_modules() if isinstance(m, nn.Linear)}
    consumers = {n: m for n, m in linears.items() if n.endswith(("o_proj", "down_proj"))}
    producers = [m for n, m in linears.items() if n not in consumers]
    root = _size(model) - _size(block)
    return Shapes(
        parameters=root + blocks * _size(block),
        block=_size(block),
        root=root,
        targeted=blocks * sum(m.weight.numel() for m in linears.values()),
        rows=blocks * sum(m.out_features for m in linears.values()),
        producer_rows=blocks * sum(m.out_features for m in producers),
        consumer_features=blocks * sum(m.in_features for m in consumers.values()),
        features=blocks * sum(m.in_features for m in linears.values()),
        largest=max(m.weight.numel() for m in linears.values()),
    )


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def shapes_of_size(size: str) -> Shapes:
    """Return the numbers of a Llama of 1, 7 or 70 billion parameters."""
    return shapes_of(LlamaConfig(**_LLAMA[size]))


def memory(shapes: Shapes, ranks: int) -> Mapping[str, float]:
    """Return the bytes that a rank needs at its peak, by what they are for.

    Sharded are the weights, their gradients and the averages of AdamW, in float32. Gathered, in
    bf16, are the root and two blocks, the current one and the next, with the gradients of one.
    Targeted dropout adds `kept`, what lasts from update to update, and `temporary`: one masked
    weight, and the ranked numbers of all rows while they are gathered.
    """
    gathered = shapes.root + 2 * shapes.block
    return {
        "sharded": FLOAT * _SHARDED_FLOATS * shapes.parameters / ranks,
        "gathered": BF16 * (gathered + max(shapes.root, shapes.block)),
        "kept": kept_bytes(shapes),
        # The copy that is sent, those that come, and the joined ones.
        "temporary": BF16 * shapes.largest + FLOAT * 3 * shapes.rows,
    }


def kept_bytes(shapes: Shapes) -> int:
    """Return the bytes of the tensors that targeted dropout keeps at the weight level.

    One cut-off a row; for importance by activation a scale, a sum and an average an input.
    """
    return FLOAT * (shapes.rows + 3 * shapes.features)


def fsdp_traffic(shapes: Shapes, ranks: int) -> float:
    """Return the bytes that a rank receives in an update of FSDP2.

    It gathers all weights for the forward and again for the backward, and reduces the gradients,
    all in bf16.
    """
    return 3 * BF16 * shapes.parameters * (ranks - 1) / ranks


def added_traffic(shapes: Shapes, ranks: int, level: str, importance: str = "magnitude") -> float:
    """Return the bytes that a rank receives in an update for targeted dropout.

    Args:
        shapes: the numbers of the model.
        ranks: the number of ranks.
        level: `weight` gathers a cut-off for each row; `unit` a norm for each row of a producer.
        importance: `activation` sums the squares of all inputs too, in one of `INTERVAL` updates.
    """
    numbers: float = shapes.rows if level == "weight" else shapes.producer_rows
    if importance == "activation":
        inputs = shapes.features if level == "weight" else shapes.consumer_features
        numbers += 2 * inputs / INTERVAL  # an all-reduce sends twice
    return FLOAT * numbers * (ranks - 1) / ranks
