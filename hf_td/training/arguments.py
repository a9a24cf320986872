"""Training arguments with the settings of targeted dropout as flat fields.

Flat, so that `HfArgumentParser` takes them from the command line, from JSON and from YAML.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from transformers import Seq2SeqTrainingArguments, TrainingArguments

from hf_td.config import TargetedDropoutConfig
from hf_td.schedules import SHAPES, Schedule

_DEFAULTS = TargetedDropoutConfig()
_TARGETING = _DEFAULTS.targeting_schedule
_DROP_RATE = _DEFAULTS.drop_rate_schedule
_SHRINK = _DEFAULTS.shrink_schedule


def _setting(default: Any, help: str, **metadata: Any) -> Any:
    return field(default=default, metadata={"help": help, **metadata})


@dataclass
class TargetedDropoutFields:
    """The settings of `TargetedDropoutConfig`, one flat field each.

    A schedule becomes several fields: its shape, and what else `hf_td.Schedule` has.
    """

    level: Literal["weight", "unit"] = _setting(_DEFAULTS.level, "rank weights, or whole units")
    attention_level: Literal["weight", "unit", "none"] | None = _setting(
        None, "level of attention, where it differs; none leaves it alone"
    )
    feed_forward_level: Literal["weight", "unit", "none"] | None = _setting(
        None, "level of the feed-forward part, where it differs; none leaves it alone"
    )
    targeting: float = _setting(_DEFAULTS.targeting, "final fraction of candidates, in [0, 1)")
    targeting_schedule: str = _setting(
        _TARGETING.shape, "how the targeting grows", choices=sorted(SHAPES)
    )
    targeting_initial: float = _setting(
        _TARGETING.initial, "fraction of the final targeting at the start, in [0, 1]"
    )
    targeting_begin: float = _setting(_TARGETING.begin, "progress at which it starts to grow")
    targeting_end: float = _setting(_TARGETING.end, "progress at which it is final, in (0, 1]")
    targeting_sampled: float = _setting(
        _TARGETING.sampled, "share of the updates that draw it from [0, its ramp], in [0, 1]"
    )
    targeting_off: float = _setting(_TARGETING.off, "share of the updates without it, in [0, 1]")
    drop_rate: float = _setting(
        _DEFAULTS.drop_rate, "final probability that a candidate is dropped, in [0, 1]"
    )
    drop_rate_schedule: str = _setting(
        _DROP_RATE.shape, "how the drop rate grows", choices=sorted(SHAPES)
    )
    drop_rate_initial: float = _setting(
        _DROP_RATE.initial, "fraction of the final drop rate at the start, in [0, 1]"
    )
    drop_rate_begin: float = _setting(_DROP_RATE.begin, "progress at which it starts to grow")
    drop_rate_end: float = _setting(_DROP_RATE.end, "progress at which it is final, in (0, 1]")
    drop_rate_sampled: float = _setting(
        _DROP_RATE.sampled, "share of the updates that draw it from [0, its ramp], in [0, 1]"
    )
    drop_rate_off: float = _setting(_DROP_RATE.off, "share of the updates without it, in [0, 1]")
    shrink: float = _setting(
        _DEFAULTS.shrink, "final fraction by which candidates shrink at every update, in [0, 1)"
    )
    shrink_schedule: str = _setting(
        _SHRINK.shape, "how the shrinking grows", choices=sorted(SHAPES)
    )
    shrink_initial: float = _setting(
        _SHRINK.initial, "fraction of the final shrinking at the start, in [0, 1]"
    )
    shrink_begin: float = _setting(_SHRINK.begin, "progress at which it starts to grow")
    shrink_end: float = _setting(_SHRINK.end, "progress at which it is final, in (0, 1]")
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
    candidates: Literal["magnitude", "random"] = _setting(
        _DEFAULTS.candidates, "candidates by importance, or a fixed random set"
    )
    draw: Literal["unit", "element"] = _setting(
        _DEFAULTS.draw, "at the unit level, drop whole units or single elements of them"
    )
    rescale: bool = _setting(_DEFAULTS.rescale, "scale surviving candidates by 1 / (1 - drop rate)")

    untargeted_lr_scale: float = _setting(
        1.0,
        "learning rate of what is never dropped (norms, biases and the head) over that of the rest",
    )

    def __post_init__(self) -> None:
        parent: Any = super()
        parent.__post_init__()
        if self.untargeted_lr_scale <= 0:
            raise ValueError(f"untargeted_lr_scale is positive, got {self.untargeted_lr_scale}")
        self.targeted_dropout()  # refuse bad settings at once, not when training starts

    def targeted_dropout(self) -> TargetedDropoutConfig:
        """The settings as a configuration; its seed is the run's."""
        same = {f.name for f in fields(TargetedDropoutConfig)} - {
            "targeting_schedule",
            "drop_rate_schedule",
            "shrink_schedule",
        }
        return TargetedDropoutConfig(
            **{name: getattr(self, name) for name in same},
            targeting_schedule=self._schedule("targeting"),
            drop_rate_schedule=self._schedule("drop_rate"),
            shrink_schedule=self._schedule("shrink"),
        )

    def _schedule(self, rate: str) -> Schedule:
        given = {f.name: f"{rate}_{f.name}" for f in fields(Schedule)}
        rest = {name: getattr(self, flat) for name, flat in given.items() if hasattr(self, flat)}
        return Schedule(shape=getattr(self, f"{rate}_schedule"), **rest)


@dataclass
class TargetedDropoutArguments(TargetedDropoutFields, TrainingArguments):
    """`TrainingArguments` with the settings of targeted dropout."""


@dataclass
class TargetedDropoutSeq2SeqArguments(TargetedDropoutFields, Seq2SeqTrainingArguments):
    """`Seq2SeqTrainingArguments` with the settings of targeted dropout."""
