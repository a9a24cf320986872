"""Facts for a model card that the export itself does not show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from hf_td.analysis import CurvePoint
from hf_td.config import TargetedDropoutConfig
from hf_td.hub.card.latency import Latency


@dataclass(frozen=True, kw_only=True)
class TextSample:
    """What a language model writes before and after pruning.

    Attributes:
        prompt: the beginning of the text.
        dense: what the fine-tuned model wrote before it was pruned.
        pruned: what the pruned model wrote.
    """

    prompt: str
    dense: str
    pruned: str


@dataclass(frozen=True, kw_only=True)
class CardInfo:
    """Facts for a model card. All are optional; the card leaves out what is not given.

    Attributes:
        name: of the model; by default that of the export's folder.
        repo_id: id on the Hub that the model will have, for the code that loads it.
        base_model: the model that was fine-tuned: an id on the Hub, or a local folder. The card in
            a local folder gives the licence and the language where they are not given here.
        task: that it was trained for, in words or as GLUE calls it.
        labels: names of the classes, or of the number that is predicted.
        pipeline_tag: the Hub's name of the task, such as `text-classification`; by default that of
            the model's class.
        dataset: id on the Hub, or a name.
        dataset_config: name of the part of the dataset.
        dataset_split: that the metrics were measured on.
        trained_rows: number of rows that the model was trained on.
        measured_rows: number of rows that the metrics were measured on.
        metric: name of the main metric, among the curve's metrics.
        lower_is_better: True for a metric such as a perplexity.
        curve: what `pruning_curve` returned, or the same as mappings.
        sparsity: of the curve's point that is the exported model.
        license: identifier such as `apache-2.0`.
        language: code or codes, such as `en`.
        targeted_dropout: the settings of the training; by default those that the model records.
        method: of the training, in words, where the settings do not say everything.
        learning_rate: of the training.
        epochs: of the training.
        seed: of the training.
        environment: of the training, as `hf_td.analysis.record.environment` returns it.
        command: that repeats the training.
        commit: of the code that ran.
        latency: what `measure_latency` returned.
        sample: of the text of a language model.
        limitations: sentences to add to the card's own.

    Raises:
        ValueError: the curve does not have the metric or the sparsity that another field names.
    """

    name: str | None = None
    repo_id: str | None = None
    base_model: str | Path | None = None
    task: str | None = None
    labels: Sequence[str] = ()
    pipeline_tag: str | None = None
    dataset: str | None = None
    dataset_config: str | None = None
    dataset_split: str | None = None
    trained_rows: int | None = None
    measured_rows: int | None = None
    metric: str | None = None
    lower_is_better: bool = False
    curve: Sequence[CurvePoint | Mapping[str, Any]] = ()
    sparsity: float | None = None
    license: str | None = None
    language: str | Sequence[str] | None = None
    targeted_dropout: TargetedDropoutConfig | Mapping[str, Any] | None = None
    method: str | None = None
    learning_rate: float | None = None
    epochs: float | None = None
    seed: int | None = None
    environment: Mapping[str, Any] | None = None
    command: str | None = None
    commit: str | None = None
    latency: Latency | None = None
    sample: TextSample | None = None
    limitations: Sequence[str] = ()

    def __post_init__(self) -> None:
        points = [p if isinstance(p, CurvePoint) else CurvePoint(**p) for p in self.curve]
        object.__setattr__(self, "curve", tuple(sorted(points, key=lambda p: p.sparsity)))
        for point in self.points:
            if self.metric is not None and self.metric not in point.metrics:
                raise ValueError(
                    f"metric {self.metric!r} is not in the curve, which has {sorted(point.metrics)}"
                )
        if self.points and self.sparsity is not None and self.exported_point is None:
            raise ValueError(
                f"sparsity {self.sparsity} is no point of the curve, which has "
                f"{[point.sparsity for point in self.points]}"
            )

    @property
    def points(self) -> tuple[CurvePoint, ...]:
        """The points of the curve, by rising sparsity."""
        return tuple(point for point in self.curve if isinstance(point, CurvePoint))

    @property
    def exported_point(self) -> CurvePoint | None:
        """The point of the curve that is the exported model; None where that is not known."""
        return next((point for point in self.points if point.sparsity == self.sparsity), None)

    @property
    def dropout_settings(self) -> dict[str, Any] | None:
        """The settings of targeted dropout in their JSON form."""
        given = self.targeted_dropout
        if isinstance(given, Mapping):
            given = TargetedDropoutConfig.from_dict(given)
        return None if given is None else given.to_dict()

    @property
    def training(self) -> dict[str, Any]:
        """The known settings of the training beside targeted dropout."""
        names = ("method", "learning_rate", "epochs", "seed")
        return {name: v for name in names if (v := getattr(self, name)) is not None}


def is_metric(name: str, value: Any) -> bool:
    """Return True for a finite metric; records write values that are not finite as None."""
    return isinstance(value, Real) and math.isfinite(value) and not name.endswith("loss")
