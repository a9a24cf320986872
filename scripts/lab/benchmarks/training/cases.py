"""What is measured: models, sizes of a step, and ways to drop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from hf_td import TargetedDropoutConfig, anneal, patch_model
from hf_td.baselines import Baseline, attach_baseline, find_baseline
from hf_td.tasks.experiment.methods import METHODS

# Of the run, at which the targeting is final.
_PROGRESS = 0.8
_EXAMPLES = 6000  # of the training set, over which some penalties are spread


def _no_penalty() -> Tensor | None:
    return None


class Applied(NamedTuple):
    """A variant on a model.

    Attributes:
        advance: prepares an update, given its number.
        penalty: what the loss gets besides.
    """

    advance: Callable[[int], None]
    penalty: Callable[[], Tensor | None] = _no_penalty


# Applies a variant to a model, in place.
Variant = Callable[[nn.Module], Applied]


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


def _patched(**settings: Any) -> Variant:
    def apply(model: nn.Module) -> Applied:
        patch_model(model, **settings)
        return Applied(lambda update: _anneal(model, update))

    return apply


def _anneal(model: nn.Module, update: int) -> None:
    anneal(model, _PROGRESS, update)


def _by_baseline(baseline: Baseline, **settings: Any) -> Variant:
    def apply(model: nn.Module) -> Applied:
        attach_baseline(model, baseline, TargetedDropoutConfig(**settings), examples=_EXAMPLES)
        attached = find_baseline(model)
        assert attached is not None
        return Applied(lambda update: attached.advance(_PROGRESS, update), attached.penalty)

    return apply


_DROPS_ALWAYS = {"targeting_schedule": "constant"}
# What each variant does to a model.
VARIANTS: dict[str, Variant] = {
    "weight": _patched(level="weight", **_DROPS_ALWAYS),
    "weight, drop rate 0.5": _patched(level="weight", drop_rate=0.5, **_DROPS_ALWAYS),
    "unit": _patched(level="unit", **_DROPS_ALWAYS),
}
# With the updates of the recipe that drop nothing and hold what the others keep.
WHOLE_RECIPES: dict[str, Variant] = {
    "weight, whole recipe": _patched(level="weight"),
    "unit, whole recipe": _patched(level="unit"),
}
# The methods that targeted dropout is compared with, at both levels.
METHOD_VARIANTS: dict[str, Variant] = {
    f"{method.label}, {level}": _by_baseline(baseline, level=level)
    for method in METHODS.values()
    for level in ("weight", "unit")
    if (baseline := method.make_baseline(level, {})) is not None
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
    ways = {
        BERT: (*VARIANTS, *WHOLE_RECIPES, *PORTS),
        MINILM: (*VARIANTS, *WHOLE_RECIPES),
        LLAMA: ("weight",),
    }
    return [_on_cuda(way, shape) for shape, some in ways.items() for way in some]


def _cuda_compiled() -> list[Case]:
    ways = {BERT: ("weight", "unit"), LLAMA: ("weight",)}
    return [_on_cuda(way, shape, "compile") for shape, some in ways.items() for way in some]


def _on_cuda(variant: str, shape: Shape, mode: str = "eager") -> Case:
    batch, length = (8, 1024) if shape is LLAMA else (32, 128)
    return Case(variant, shape, batch, length, precision="bf16", mode=mode)


def _methods() -> list[Case]:
    return [Case(name, MINILM, 32, 128) for name in METHOD_VARIANTS]


# What `--suite` names.
SUITES: dict[str, Callable[[], list[Case]]] = {
    "cpu": _cpu,
    "growth": _growth,
    "methods": _methods,
    "cuda": _cuda,
    "cuda_compiled": _cuda_compiled,
}
