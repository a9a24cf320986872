"""Training arguments with the settings of targeted dropout as flat fields.

Flat, so that `HfArgumentParser` takes them from the command line, from JSON and from YAML.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from transformers import Seq2SeqTrainingArguments, TrainingArguments

from hf_td.config import RECIPES, TargetedDropoutConfig
from hf_td.schedules import SHAPES, Schedule
from hf_td.training.distillation import DistillationFields

_RATES = ("targeting", "drop_rate")


def _setting(help: str, default: Any = None, **metadata: Any) -> Any:
    return field(default=default, metadata={"help": help, **metadata})


@dataclass
class TargetedDropoutFields:
    """The settings of `TargetedDropoutConfig`, one flat field each.

    A schedule becomes several fields: its shape, and what else `hf_td.Schedule` has. What is None
    is as the recipe of the level says.
    """

    level: Literal["weight", "unit"] = _setting("rank weights, or whole units", default="weight")
    attention_level: Literal["weight", "unit", "none"] | None = _setting(
        "level of attention, where it differs; none leaves it alone"
    )
    feed_forward_level: Literal["weight", "unit", "none"] | None = _setting(
        "level of the feed-forward part, where it differs; none leaves it alone"
    )
    experts_level: Literal["unit", "none"] = _setting(
        "rank whole experts of mixtures, or leave them all in", default="none"
    )
    targeting: float | None = _setting(
        "final fraction of weights or units that are candidates, in [0, 1)"
    )
    targeting_schedule: str | None = _setting("how it grows", choices=sorted(SHAPES))
    targeting_initial: float | None = _setting(
        "fraction of its final value at the start, in [0, 1]"
    )
    targeting_begin: float | None = _setting("progress at which it starts to grow, in [0, 1)")
    targeting_end: float | None = _setting("progress at which it is final, in (0, 1]")
    targeting_sampled: float | None = _setting("share of updates that draw it from [0, its ramp]")
    targeting_off: float | None = _setting("share of updates without it, in [0, 1]")
    drop_rate: float | None = _setting("final probability that a candidate is dropped, in [0, 1]")
    drop_rate_schedule: str | None = _setting("how it grows", choices=sorted(SHAPES))
    drop_rate_initial: float | None = _setting(
        "fraction of its final value at the start, in [0, 1]"
    )
    drop_rate_begin: float | None = _setting("progress at which it starts to grow, in [0, 1)")
    drop_rate_end: float | None = _setting("progress at which it is final, in (0, 1]")
    drop_rate_sampled: float | None = _setting("share of updates that draw it from [0, its ramp]")
    drop_rate_off: float | None = _setting("share of updates without it, in [0, 1]")
    include: list[str] = field(
        default_factory=lambda: ["*"],
        metadata={"help": "patterns on dotted names of the layers to target"},
    )
    exclude: list[str] = field(
        default_factory=list,
        metadata={"help": "patterns on dotted names of the layers to leave alone"},
    )
    layers: list[int] | None = field(
        default=None, metadata={"help": "indices of the layers to target; all by default"}
    )
    importance: (
        Literal["magnitude", "activation", "random", "taylor", "movement", "learned"] | None
    ) = _setting(
        "what ranks: magnitude, magnitude times activation, a fixed random set; or, for pruning "
        "alone, the change or the growth of the loss to first order, or what a baseline has learned"
    )
    draw: Literal["unit", "element"] = field(
        default="unit",
        metadata={"help": "at the unit level, drop whole units or single elements of them"},
    )
    pattern: str | None = _setting(
        "at the weight level, N:M: the N lowest of each M neighbours are the candidates, as in 2:4"
    )
    untargeted_lr_scale: float = field(
        default=2.0,
        metadata={
            "help": "learning rate of what is never dropped (norms, biases and the head), as a "
            "multiple of the learning rate of all else"
        },
    )

    def __post_init__(self) -> None:
        parent: Any = super()
        parent.__post_init__()
        if self.untargeted_lr_scale <= 0:
            raise ValueError(f"untargeted_lr_scale is positive, got {self.untargeted_lr_scale}")
        self.targeted_dropout()  # refuse bad settings at once, not when training starts

    def targeted_dropout(self) -> TargetedDropoutConfig:
        """The settings as a configuration; its seed is the run's."""
        schedules: dict[str, Any] = {f"{rate}_schedule": self._schedule(rate) for rate in _RATES}
        names = {f.name for f in fields(TargetedDropoutConfig)} - set(schedules)
        return TargetedDropoutConfig(**{n: getattr(self, n) for n in names}, **schedules)

    def _schedule(self, rate: str) -> Schedule:
        """The schedule of the recipe, with what was given in its place."""
        recipe = RECIPES[self.level][f"{rate}_schedule"]
        flat = {f.name: f"{rate}_{f.name}" for f in fields(Schedule)}
        flat["shape"] = f"{rate}_schedule"
        given = {name: getattr(self, field) for name, field in flat.items()}
        return replace(recipe, **{n: value for n, value in given.items() if value is not None})


@dataclass
class TargetedDropoutArguments(TargetedDropoutFields, DistillationFields, TrainingArguments):
    """`TrainingArguments` with the settings of targeted dropout and of distillation."""


@dataclass
class TargetedDropoutSeq2SeqArguments(
    TargetedDropoutFields, DistillationFields, Seq2SeqTrainingArguments
):
    """`Seq2SeqTrainingArguments` with the settings of targeted dropout and of distillation."""
