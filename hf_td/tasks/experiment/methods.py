"""How to fine-tune. Another method is another row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from transformers import Trainer

from hf_td.baselines import BASELINES, Baseline, BaselineTrainer
from hf_td.training import ReliableTrainer, TargetedDropoutTrainer


@dataclass(frozen=True)
class Method:
    """A way to fine-tune a model that will be pruned.

    Attributes:
        label: what plots and tables call it.
        trainer: the class of its Trainer.
        targets: whether it is targeted dropout.
        baseline: the class of its settings, where it is another method with settings.
    """

    label: str
    trainer: type[Trainer]
    targets: bool = False
    baseline: type[Baseline] | None = None

    def make_baseline(self, level: str, settings: Mapping[str, Any]) -> Baseline | None:
        """The baseline with the defaults of a level and some settings; None without settings.

        Raises:
            ValueError: a setting is unknown or out of range.
        """
        if self.baseline is not None:
            return self.baseline.make(level, settings)
        if settings:
            raise ValueError(f"{self.label} has no settings of its own, got {sorted(settings)}")
        return None

    def settings(self, level: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """All settings of the method, for the record; None where it has none."""
        baseline = self.make_baseline(level, settings)
        return None if baseline is None else asdict(baseline)

    def make_trainer(
        self, family: type[Trainer], level: str, settings: Mapping[str, Any], **kwargs: Any
    ) -> Trainer:
        """Its Trainer, of a family such as `Seq2SeqTrainer`, which takes the same arguments."""
        baseline = self.make_baseline(level, settings)
        own: dict[str, Any] = {} if baseline is None else {"baseline": baseline}
        return self.trainer_of(family)(**kwargs, **own)

    def trainer_of(self, family: type[Trainer]) -> type[Trainer]:
        """The class of its Trainer, in a family such as `Seq2SeqTrainer`.

        What the method overrides comes before what the family does, and both before the stock
        Trainer.
        """
        if issubclass(self.trainer, family):
            return self.trainer
        return type(f"{self.trainer.__name__}Of{family.__name__}", (self.trainer, family), {})


METHODS: dict[str, Method] = {
    "targeted_dropout": Method("targeted dropout", TargetedDropoutTrainer, targets=True),
    # Targeted dropout that always drops all of its candidates; its schedule is in `recipe`.
    "gradual_magnitude": Method("gradual magnitude", TargetedDropoutTrainer, targets=True),
    "none": Method("plain fine-tuning", ReliableTrainer),
    **{
        name: Method(baseline.LABEL, BaselineTrainer, baseline=baseline)
        for name, baseline in BASELINES.items()
    },
}
