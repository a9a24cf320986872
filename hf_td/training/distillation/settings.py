"""The settings of distillation: flat fields, and what they come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from hf_td.training.distillation.terms import PRESETS, TERMS, presets_help


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """The loss of a run with a teacher.

    Attributes:
        labels: weight of the loss of the labels; 0 needs no labels.
        weights: positive weights of terms, by their names in `TERMS`.
        temperature: divisor of the logits, positive.
        freeze_head: give the student the teacher's head, frozen.
    """

    labels: float
    weights: Mapping[str, float]
    temperature: float
    freeze_head: bool

    @property
    def asks(self) -> dict[str, bool]:
        """Arguments of a forward that make a model return what the terms compare."""
        return {name: True for term in self.weights for name in TERMS[term].asks}


def _weight(help: str) -> Any:
    text = f"weight of the {help}, at least 0; by default that of the preset"
    return field(default=None, metadata={"help": text})


@dataclass
class DistillationFields:
    """The settings of distillation, one flat field each. None means the value of the preset."""

    teacher: str | None = field(
        default=None,
        metadata={"help": "model to distil from, fine-tuned on the task: folder, or id on the Hub"},
    )
    distill: str = field(
        default="mixed", metadata={"help": presets_help(), "choices": list(PRESETS)}
    )
    distill_temperature: float = field(
        default=2.0, metadata={"help": "divisor of the logits of student and teacher, positive"}
    )
    distill_weight: float | None = field(
        default=None,
        metadata={
            "help": "weight of the teacher's logits, in [0, 1]; the labels then have the rest. By "
            "default both are those of the preset"
        },
    )
    distill_labels_weight: float | None = field(
        default=None,
        metadata={"help": "weight of the labels' loss, at least 0; 0 needs no labels"},
    )
    distill_last_hidden_weight: float | None = _weight(TERMS["last_hidden"].help)
    distill_hidden_weight: float | None = _weight(TERMS["hidden"].help)
    distill_attention_weight: float | None = _weight(TERMS["attention"].help)
    distill_freeze_head: bool | None = field(
        default=None,
        metadata={
            "help": "give the student the teacher's head, and do not train it; by default as the "
            "preset says"
        },
    )

    def __post_init__(self) -> None:
        parent: Any = super()
        parent.__post_init__()
        if not isinstance(self.teacher, str | None):
            raise TypeError(
                "teacher is the folder of a fine-tuned model, or its id on the Hub; got a "
                f"{type(self.teacher).__name__}. Save a model in memory by save_pretrained, and "
                "give the folder as a str"
            )
        if self.distill not in PRESETS:
            raise ValueError(f"distill is one of {', '.join(PRESETS)}, got {self.distill!r}")
        if self.distill_temperature <= 0:
            raise ValueError(f"distill_temperature is positive, got {self.distill_temperature}")
        if self.distill_weight is not None and not 0 <= self.distill_weight <= 1:
            raise ValueError(f"distill_weight is a share in [0, 1], got {self.distill_weight}")
        for name in ("distill_labels_weight", *(term.setting for term in TERMS.values())):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} is at least 0, got {getattr(self, name)}")
        settings = self.distillation()
        if not (settings.weights or settings.labels):
            raise ValueError(
                "neither the labels nor a term of the teacher have a weight above 0. Give one, "
                "such as distill_weight 0.9"
            )

        self._check_has_teacher()

    def _check_has_teacher(self) -> None:
        given = [f.name for f in fields(DistillationFields) if getattr(self, f.name) != f.default]
        if given and self.teacher is None:
            raise ValueError(
                f"{given[0]} is of distillation, and there is no teacher. Give one (--teacher), or "
                f"leave {given[0]} out"
            )

    def distillation(self) -> Distillation:
        """Return the preset with the given settings in place of its own."""
        preset = PRESETS[self.distill]
        own = {name: getattr(self, term.setting) for name, term in TERMS.items()}
        weights = {name: preset.weights.get(name, 0.0) for name in TERMS}
        weights |= {name: weight for name, weight in own.items() if weight is not None}
        freeze = self.distill_freeze_head
        return Distillation(
            labels=self._labels_weight(preset.labels),
            weights={name: weight for name, weight in weights.items() if weight},
            temperature=self.distill_temperature,
            freeze_head=preset.freeze_head if freeze is None else freeze,
        )

    def _labels_weight(self, of_preset: float) -> float:
        if self.distill_labels_weight is not None:
            return self.distill_labels_weight
        return of_preset if self.distill_weight is None else 1 - self.distill_weight
