"""Cases whose training steps are measured: models, sizes of a step, and variants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from lab.benchmarks.training.variants import DROPPING, POOLED, PORTS, RIVALS, WHOLE_RECIPES


@dataclass(frozen=True)
class Shape:
    """A model with random weights, whose values do not change the times.

    Attributes:
        name: of a model of this shape; those that begin with Llama are Llamas, others BERTs.
        hidden: the width; the feed-forward part is four times as wide.
        layers: the number of blocks of attention and feed-forward.
        heads: of attention.
    """

    name: str
    hidden: int
    layers: int
    heads: int

    def build(self) -> PreTrainedModel:
        """Return the model in training mode, with the stock dropout of its class."""
        if self.name.startswith("Llama"):
            llama = LlamaConfig(
                vocab_size=32_000,
                hidden_size=self.hidden,
                num_hidden_layers=self.layers,
                num_attention_heads=self.heads,
                num_key_value_heads=self.heads // 4,
                intermediate_size=4 * self.hidden,
            )
            return LlamaForCausalLM(llama).train()
        return BertForSequenceClassification(self.bert()).train()

    def bert(self) -> BertConfig:
        """Return the config of a BERT of this shape."""
        return BertConfig(
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=4 * self.hidden,
        )


@dataclass(frozen=True)
class Case:
    """One comparison with the dense model.

    Attributes:
        variant: a name in `VARIANTS`.
        shape: of the model.
        batch: sequences of a micro-batch.
        length: tokens of a sequence.
        micro_batches: number of micro-batches in an update.
        precision: `float32`, or `bf16` for autocast.
        mode: `eager`, `compile` for `torch.compile`, or `fsdp2` for `fully_shard` on one rank.
    """

    variant: str
    shape: Shape
    batch: int
    length: int
    micro_batches: int = 1
    precision: str = "float32"
    mode: str = "eager"

    def facts(self) -> dict[str, Any]:
        """Return the fields of the case as JSON values."""
        return asdict(self)

    def shrunk(self) -> Case:
        """Return the case with a tiny model and few tokens, to try a command on any machine."""
        return replace(self, shape=replace(self.shape, **TINY), batch=2, length=16)


MINILM = Shape("MiniLM", hidden=384, layers=6, heads=12)
BERT = Shape("BERT-base", hidden=768, layers=12, heads=12)
LLAMA = Shape("Llama, 1 B", hidden=2048, layers=16, heads=32)
# Sizes that replace those of a shape, to try a command out.
TINY: dict[str, Any] = {"hidden": 64, "layers": 2, "heads": 8}
_LEVELS = ("weight", "unit")


def _cpu() -> list[Case]:
    sizes = ((32, 128), (16, 64))
    return [
        *(Case(v, MINILM, *size) for size in sizes for v in (*DROPPING, *POOLED, *PORTS)),
        *(Case(v, MINILM, *size, precision="bf16") for size in sizes for v in _LEVELS),
        *(Case(v, MINILM, 8, 128, micro_batches=4) for v in _LEVELS),
        *(Case(v, MINILM, 16, 64, mode="compile") for v in _LEVELS),
        *(Case(v, MINILM, 32, 128, mode="compile") for v in _LEVELS),
    ]


def _growth() -> list[Case]:
    """Return batch sizes at one width, and widths at one batch size, with few layers."""
    batches = [Case("weight", MINILM, batch, 128) for batch in (1, 2, 4, 8, 16, 64)]
    shapes = [Shape("BERT, wide", hidden=w, layers=2, heads=w // 64) for w in (384, 768, 1024)]
    shapes.append(Shape("BERT, wide", hidden=4096, layers=1, heads=64))
    return batches + [Case("weight", shape, 8, 128) for shape in shapes]


def _cuda() -> list[Case]:
    variants = {
        BERT: (*DROPPING, *WHOLE_RECIPES, *PORTS),
        MINILM: (*DROPPING, *WHOLE_RECIPES),
        LLAMA: (*_LEVELS, *PORTS),
    }
    return [_on_cuda(variant, shape) for shape, some in variants.items() for variant in some]


def _cuda_compiled() -> list[Case]:
    return [_on_cuda(v, shape, "compile") for shape in (BERT, LLAMA) for v in (*_LEVELS, *PORTS)]


def _cuda_fsdp2() -> list[Case]:
    return [_on_cuda(variant, LLAMA, "fsdp2") for variant in _LEVELS]


def _on_cuda(variant: str, shape: Shape, mode: str = "eager") -> Case:
    batch, length = (8, 1024) if shape is LLAMA else (32, 128)
    return Case(variant, shape, batch, length, precision="bf16", mode=mode)


def _rivals() -> list[Case]:
    return [Case(name, MINILM, 32, 128) for name in RIVALS]


# The suites by the names that `--suite` takes.
SUITES: dict[str, Callable[[], list[Case]]] = {
    "cpu": _cpu,
    "growth": _growth,
    "methods": _rivals,
    "cuda": _cuda,
    "cuda_compiled": _cuda_compiled,
    "cuda_fsdp2": _cuda_fsdp2,
}
# Cases whose memory is measured, by device.
MEMORY: dict[str, Callable[[], list[Case]]] = {
    "cpu": lambda: [
        Case(variant, MINILM, 32, 128, precision=precision)
        for precision in ("float32", "bf16")
        for variant in _LEVELS
    ],
    "cuda": lambda: [case for case in _cuda() if case.variant in _LEVELS],
}
