"""The methods of fine-tuning by name. A new method is a new row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from transformers import Trainer

from hf_td.baselines import BASELINES, Baseline, BaselineTrainer
from hf_td.training import ReliableTrainer, TargetedDropoutTrainer


@dataclass(frozen=True)
class Method:
    """A method of fine-tuning a model that will be pruned.

    Attributes:
        label: name in plots and tables.
        trainer: class of its Trainer.
        targets: True for targeted dropout.
        baseline: class of the baseline, with its settings, if it is one.
    """

    label: str
    trainer: type[Trainer]
    targets: bool = False
    baseline: type[Baseline] | None = None

    def make_baseline(self, level: str, settings: Mapping[str, Any]) -> Baseline | None:
        """Make the baseline with the defaults of a level and these settings; None if it is none.

        Raises:
            ValueError: a setting is unknown or out of range.
        """
        if self.baseline is not None:
            return self.baseline.make(level, settings)
        if settings:
            raise ValueError(f"{self.label} has no settings of its own, got {sorted(settings)}")
        return None

    def settings(self, level: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return all settings of the method, for the record; None if it has none."""
        baseline = self.make_baseline(level, settings)
        return None if baseline is None else asdict(baseline)

    def make_trainer(
        self, family: type[Trainer], level: str, settings: Mapping[str, Any], **kwargs: Any
    ) -> Trainer:
        """Make the Trainer, combined with a family such as `Seq2SeqTrainer`.

        Args:
            family: Trainer class that can evaluate the task.
            level: `weight` or `unit`.
            settings: settings of the method.
            **kwargs: arguments of `Trainer`.
        """
        baseline = self.make_baseline(level, settings)
        own: dict[str, Any] = {} if baseline is None else {"baseline": baseline}
        return self.trainer_of(family)(**kwargs, **own)

    def trainer_of(self, family: type[Trainer]) -> type[Trainer]:
        """Return the class of the Trainer, combined with a family such as `Seq2SeqTrainer`.

        In the resolution order the method precedes the family, and both precede the stock Trainer.
        """
        if issubclass(self.trainer, family):
            return self.trainer
        return type(f"{self.trainer.__name__}Of{family.__name__}", (self.trainer, family), {})


METHODS: dict[str, Method] = {
    "targeted_dropout": Method("targeted dropout", TargetedDropoutTrainer, targets=True),
    # Targeted dropout with drop rate 1; `recipe` has its schedule.
    "gradual_magnitude": Method("gradual magnitude", TargetedDropoutTrainer, targets=True),
    "none": Method("plain fine-tuning", ReliableTrainer),
    **{
        name: Method(baseline.LABEL, BaselineTrainer, baseline=baseline)
        for name, baseline in BASELINES.items()
    },
}
