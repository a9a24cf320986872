"""The layers of some families, written by hand, to compare readings with."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import transformers as hf
from torch import Tensor
from torch.testing import assert_close
from transformers import PreTrainedModel

from hf_td import Anatomy
from tests.tiny import FAMILIES, TEXT

every_family = pytest.mark.parametrize("family", FAMILIES)


class Row(NamedTuple):
    """A projection: unit `u` has `size` features from `start + u * step` on."""

    module: str
    role: str
    units: int
    size: int
    start: int = 0
    step: int | None = None

    def features(self) -> Tensor:
        step = self.size if self.step is None else self.step
        return self.start + torch.arange(self.units)[:, None] * step + torch.arange(self.size)


def attention(*names: str) -> list[Row]:
    """Return four heads of eight channels, in four layers."""
    return [Row(name, role, 4, 8) for name, role in zip(names, "qkvo", strict=True)]


def neurons(*names: str, width: int = 64) -> list[Row]:
    roles = ["up", "down"] if len(names) == 2 else ["gate", "up", "down"]
    return [Row(name, role, width, 1) for name, role in zip(names, roles, strict=True)]


def per_head(fused: str, out: str) -> list[Row]:
    """Return projections fused head by head: query, key and value of the first head, then ..."""
    parts = [Row(fused, role, 4, 8, 8 * i, 24) for i, role in enumerate("qkv")]
    return [*parts, Row(out, "o", 4, 8)]


def in_thirds(fused: str, out: str) -> list[Row]:
    """Return projections fused one after the other: all queries, all keys, all values."""
    parts = [Row(fused, role, 4, 8, 32 * i) for i, role in enumerate("qkv")]
    return [*parts, Row(out, "o", 4, 8)]


def grouped(q: str, k: str, v: str, o: str) -> list[Row]:
    """Return two groups: each has two query heads and one key and value head."""
    return [Row(q, "q", 2, 16), Row(k, "k", 2, 8), Row(v, "v", 2, 8), Row(o, "o", 2, 16)]


def bert_like(base: str) -> list[list[Row]]:
    layer, self_attention = f"{base}.encoder.layer.#", f"{base}.encoder.layer.#.attention.self"
    heads = [f"{self_attention}.{name}" for name in ("query", "key", "value")]
    return [
        attention(*heads, f"{layer}.attention.output.dense"),
        neurons(f"{layer}.intermediate.dense", f"{layer}.output.dense"),
    ]


def t5_attention(path: str) -> list[Row]:
    return attention(*(f"{path}.{name}" for name in "qkvo"))


def t5(*feed_forward: str) -> list[list[Row]]:
    def dense(stack: str, place: int) -> list[Row]:
        path = f"{stack}.block.#.layer.{place}.DenseReluDense"
        return neurons(*(f"{path}.{name}" for name in feed_forward))

    return [
        t5_attention("encoder.block.#.layer.0.SelfAttention"),
        dense("encoder", 1),
        t5_attention("decoder.block.#.layer.0.SelfAttention"),
        t5_attention("decoder.block.#.layer.1.EncDecAttention"),
        dense("decoder", 2),
    ]


_LLAMA, _DISTILBERT = "model.layers.#", "distilbert.transformer.layer.#"

# The blocks of a layer; `#` is its number.
KNOWN: dict[str, list[list[Row]]] = {
    "bert": bert_like("bert"),
    "roberta": bert_like("roberta"),
    "distilbert": [
        attention(*(f"{_DISTILBERT}.attention.{n}_lin" for n in ("q", "k", "v", "out"))),
        neurons(f"{_DISTILBERT}.ffn.lin1", f"{_DISTILBERT}.ffn.lin2"),
    ],
    "gpt2": [
        in_thirds("transformer.h.#.attn.c_attn", "transformer.h.#.attn.c_proj"),
        neurons("transformer.h.#.mlp.c_fc", "transformer.h.#.mlp.c_proj", width=128),
    ],
    "llama": [
        grouped(*(f"{_LLAMA}.self_attn.{n}_proj" for n in "qkvo")),
        neurons(*(f"{_LLAMA}.mlp.{n}_proj" for n in ("gate", "up", "down"))),
    ],
    "t5": t5("wi", "wo"),
    "t5_gated": t5("wi_0", "wi_1", "wo"),
    "vit": [
        attention(*(f"vit.layers.#.attention.{n}_proj" for n in "qkvo")),
        neurons("vit.layers.#.mlp.fc1", "vit.layers.#.mlp.fc2"),
    ],
}

# Layouts that the families above do not have.
FUSED: dict[str, tuple[Callable[[], PreTrainedModel], list[list[Row]]]] = {
    "phi3": (
        lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**TEXT, num_key_value_heads=2)),
        [
            [
                Row(f"{_LLAMA}.self_attn.qkv_proj", "q", 2, 16),
                Row(f"{_LLAMA}.self_attn.qkv_proj", "k", 2, 8, 32),
                Row(f"{_LLAMA}.self_attn.qkv_proj", "v", 2, 8, 48),
                Row(f"{_LLAMA}.self_attn.o_proj", "o", 2, 16),
            ],
            [
                Row(f"{_LLAMA}.mlp.gate_up_proj", "gate", 64, 1),
                Row(f"{_LLAMA}.mlp.gate_up_proj", "up", 64, 1, 64),
                Row(f"{_LLAMA}.mlp.down_proj", "down", 64, 1),
            ],
        ],
    ),
    "gpt_neox": (
        lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**TEXT)),
        [
            per_head(
                "gpt_neox.layers.#.attention.query_key_value", "gpt_neox.layers.#.attention.dense"
            ),
            neurons("gpt_neox.layers.#.mlp.dense_h_to_4h", "gpt_neox.layers.#.mlp.dense_4h_to_h"),
        ],
    ),
    "modernbert": (
        lambda: hf.ModernBertModel(hf.ModernBertConfig(**TEXT, cls_token_id=1, sep_token_id=2)),
        [
            in_thirds("layers.#.attn.Wqkv", "layers.#.attn.Wo"),
            [
                Row("layers.#.mlp.Wi", "gate", 64, 1),
                Row("layers.#.mlp.Wi", "up", 64, 1, 64),
                Row("layers.#.mlp.Wo", "down", 64, 1),
            ],
        ],
    ),
}


def assert_reads(anatomy: Anatomy, known: list[list[Row]], layers: int = 2) -> None:
    """Assert that the blocks of a reading are the known ones, in each layer."""
    expected = {
        re.sub("#", str(i), rows[-1].module): [
            row._replace(module=re.sub("#", str(i), row.module)) for row in rows
        ]
        for rows in known
        for i in range(layers)
    }
    assert {block.consumer.module for block in anatomy.blocks} == expected.keys()
    for block in anatomy.blocks:
        rows = expected[block.consumer.module]
        assert block.units == rows[-1].units
        assert block.part == ("attention" if rows[-1].role == "o" else "feed_forward")
        assert block.obstacle is None
        found = {(p.module, p.role): p.features for p in block.projections}
        assert found.keys() == {(row.module, row.role) for row in rows}
        for row in rows:
            assert_close(found[row.module, row.role], row.features())


def everything_of(anatomy: Anatomy) -> list[Any]:
    return [
        [b.name, b.part, b.units, b.obstacle]
        + [[p.module, p.role, p.features.tolist()] for p in b.projections]
        for b in anatomy.blocks
    ] + [anatomy.unclaimed, anatomy.uncalled]
