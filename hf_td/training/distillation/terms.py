"""The terms of the loss of distillation, and the presets: weights of terms by name.

A new term is a new row of `TERMS`, a new preset one of `PRESETS`. All that offers them reads these
registries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_td.training.distillation.lesson import Lesson
from hf_td.training.distillation.losses import attention_loss, hidden_loss, logits_loss


@dataclass(frozen=True, kw_only=True)
class Term:
    """A row of the registry of terms.

    Attributes:
        help: the term in words.
        setting: the field with its weight.
        asks: arguments of a forward that make a model return what the term compares.
        loss: the loss of a lesson.
    """

    help: str
    setting: str
    asks: tuple[str, ...] = ()
    loss: Callable[[Lesson], Tensor]


def _logits(lesson: Lesson) -> Tensor:
    temperature = lesson.temperature
    if "start_logits" in lesson.student:  # of an answer: two distributions over the tokens
        ends = (lesson.both(end) for end in ("start_logits", "end_logits"))
        return torch.stack([logits_loss(*end, temperature) for end in ends]).mean()
    ours, theirs = lesson.both("logits")
    if ours.dim() == 4:  # the classes of pixels
        ours, theirs = ours.movedim(1, -1), theirs.movedim(1, -1)
    counts = lesson.counted(ours)
    return logits_loss(ours, theirs, temperature, counts, regression=lesson.regression)


def _hidden(lesson: Lesson) -> Tensor:
    def loss(ours: Sequence[Any], theirs: Sequence[Any], counts: Tensor | None) -> Tensor:
        maps = [lesson.maps[i] for i in range(len(ours))] if lesson.maps else None
        return hidden_loss(ours, theirs, counts, maps)

    return lesson.summed("hidden_states", loss)


def _last_hidden(lesson: Lesson) -> Tensor:
    def loss(ours: Sequence[Any], theirs: Sequence[Any], counts: Tensor | None) -> Tensor:
        maps = [lesson.maps[len(ours) - 1]] if lesson.maps else None
        return hidden_loss(ours[-1:], theirs[-1:], counts, maps)

    return lesson.summed("hidden_states", loss)


TERMS: dict[str, Term] = {
    "logits": Term(
        help="divergence of the logits at distill_temperature; for a regression the squared error",
        setting="distill_weight",
        loss=_logits,
    ),
    "last_hidden": Term(
        help="mean squared error of the last hidden state",
        setting="distill_last_hidden_weight",
        asks=("output_hidden_states",),
        loss=_last_hidden,
    ),
    "hidden": Term(
        help="mean squared error of all hidden states, those of the embeddings included",
        setting="distill_hidden_weight",
        asks=("output_hidden_states",),
        loss=_hidden,
    ),
    "attention": Term(
        help="squared distance of the attention maps",
        setting="distill_attention_weight",
        asks=("output_attentions",),
        loss=lambda lesson: lesson.summed("attentions", attention_loss),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A row of the registry of presets.

    Attributes:
        help: what it is for, in one line.
        labels: weight of the loss of the labels; 0 trains by the teacher alone.
        weights: weights of the terms, by their names in `TERMS`.
        freeze_head: give the student the teacher's head, frozen.
    """

    help: str
    labels: float = 0.0
    weights: Mapping[str, float]
    freeze_head: bool = False


PRESETS: dict[str, Preset] = {
    "mixed": Preset(
        help="labels and the teacher's logits; needs no equal sizes",
        labels=0.1,
        weights={"logits": 0.9},
    ),
    "logits": Preset(help="the teacher's logits alone", weights={"logits": 1.0}),
    "last_hidden": Preset(
        help="the last hidden state alone, under the teacher's head (SimKD, arXiv 2203.14001)",
        weights={"last_hidden": 2.0},
        freeze_head=True,
    ),
    "layers": Preset(
        help="mixed, and all hidden states",
        labels=0.1,
        weights={"logits": 0.9, "hidden": 1.0},
    ),
    "sparsebert": Preset(
        help="attention maps, all hidden states and logits, no labels (arXiv 2104.08682)",
        weights={"logits": 1.0, "hidden": 1.0, "attention": 1.0},
    ),
}


def presets_help() -> str:
    """Return the presets with their weights, for the help of the command line."""
    rows = (f"{name}: {preset.help} ({shown(preset)})" for name, preset in PRESETS.items())
    return "which losses the teacher gives, by name. " + "; ".join(rows)


def shown(preset: Preset) -> str:
    """Return the weights of a preset in words.

    >>> shown(PRESETS["last_hidden"])
    'last_hidden 2, head frozen'
    """
    labels = {"labels": preset.labels} if preset.labels else {}
    weights = [f"{name} {weight:g}" for name, weight in {**labels, **preset.weights}.items()]
    return ", ".join([*weights, "head frozen"] if preset.freeze_head else weights)
