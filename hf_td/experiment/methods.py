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


METHODS: dict[str, Method] = {
    "targeted_dropout": Method("targeted dropout", TargetedDropoutTrainer, targets=True),
    "none": Method("plain fine-tuning", ReliableTrainer),
}
