"""What is measured: models, sizes of a step, and ways to drop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from hf_td import anneal, patch_model

# Of the run, at which the targeting is final.
_PROGRESS = 0.8

# Sets the masks of an update, given its number.
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Shape:
    """A model of random weights; times do not depend on what they are.

    Attributes:
        name: what it is the shape of.
        hidden: its width; the feed-forward part is four times as wide.
        layers: how many blocks of attention and feed-forward it has.
        heads: of attention.
    """

    name: str
    hidden: int
    layers: int
    heads: int

    def build(self) -> PreTrainedModel:
        """The model, in training mode, with stock dropout as it is by default."""
        if self.name.startswith("Llama"):
            return _llama(self).train()
        config = BertConfig(
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=4 * self.hidden,
        )
        return BertForSequenceClassification(config).train()


def _llama(shape: Shape) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads // 4,
        intermediate_size=4 * shape.hidden,
    )
    return LlamaForCausalLM(config)


@dataclass(frozen=True)
class Case:
    """One comparison with the dense model.

    Attributes:
        variant: how it drops; a name in `VARIANTS`, or of one that the caller adds.
        shape: of the model.
        batch: sequences of a micro-batch.
        length: tokens of a sequence.
        micro_batches: how many make an update.
        precision: `float32`, or `bf16` for autocast.
        mode: `eager`, or `compile` for `torch.compile`.
    """

    variant: str
    shape: Shape
    batch: int
    length: int
    micro_batches: int = 1
    precision: str = "float32"
    mode: str = "eager"

    @property
    def tokens(self) -> int:
        """Of an update."""
        return self.batch * self.length * self.micro_batches

    def facts(self) -> dict[str, Any]:
        """What identifies the case, as JSON values."""
        return asdict(self)


def _patched(**settings: Any) -> Callable[[nn.Module], Advance]:
    def apply(model: nn.Module) -> Advance:
        # Without updates that are off: they would make the mean look better.
        patch_model(model, targeting_schedule="constant", **settings)
        return lambda update: _advance(model, update)

    return apply


def _advance(model: nn.Module, update: int) -> None:
    anneal(model, _PROGRESS, update)


# What each variant does to a model; it gives what sets the masks of an update.
VARIANTS: dict[str, Callable[[nn.Module], Advance]] = {
    "weight": _patched(level="weight"),
    "weight, drop rate 0.5": _patched(level="weight", drop_rate=0.5),
    "unit": _patched(level="unit"),
}

MINILM = Shape("MiniLM", hidden=384, layers=6, heads=12)
BERT = Shape("BERT-base", hidden=768, layers=12, heads=12)
LLAMA = Shape("Llama, 1 B", hidden=2048, layers=16, heads=32)
PORTS = ("naive port", "parametrize")


def _cpu() -> list[Case]:
    weight_and_unit = ("weight", "unit")
    ways = (*VARIANTS, *PORTS)
    sizes = ((32, 128), (16, 64))
    return [
        *(Case(v, MINILM, *size) for size in sizes for v in ways),
        *(Case(v, MINILM, *s, precision="bf16") for s in sizes for v in weight_and_unit),
        *(Case(v, MINILM, 8, 128, micro_batches=4) for v in weight_and_unit),
        *(Case(v, MINILM, 16, 64, mode="compile") for v in weight_and_unit),
        *(Case(v, MINILM, 32, 128, mode="compile") for v in weight_and_unit),
    ]


def _growth() -> list[Case]:
    """Batch sizes at one width, widths at one batch size; few layers, since each is as the next."""
    batches = [Case("weight", MINILM, batch, 128) for batch in (1, 2, 4, 8, 16, 64)]
    shapes = [Shape("BERT, wide", hidden=w, layers=2, heads=w // 64) for w in (384, 768, 1024)]
    shapes.append(Shape("BERT, wide", hidden=4096, layers=1, heads=64))
    return batches + [Case("weight", shape, 8, 128) for shape in shapes]


def _cuda() -> list[Case]:
    sizes = {BERT: (32, 128), MINILM: (32, 128), LLAMA: (8, 1024)}
    return [
        Case(variant, shape, *size, precision="bf16", mode=mode)
        for shape, size in sizes.items()
        for mode in ("eager", "compile")
        for variant in ("weight", "unit")
    ]


# What `--suite` names.
SUITES: dict[str, Callable[[], list[Case]]] = {"cpu": _cpu, "growth": _growth, "cuda": _cuda}
