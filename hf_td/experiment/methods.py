"""How to fine-tune. Another method is another row."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import Trainer

from hf_td.training import ReliableTrainer, TargetedDropoutTrainer


@dataclass(frozen=True)
class Method:
    """A way to fine-tune a model that will be pruned.

    Attributes:
        label: what plots and tables call it.
        trainer: the class of its Trainer.
        targets: whether it is targeted dropout.
    """

    label: str
    trainer: type[Trainer]
    targets: bool = False

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
    "none": Method("plain fine-tuning", ReliableTrainer),
}
