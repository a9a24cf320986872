"""How to fine-tune. Another method is another row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from hf_td.training import TargetedDropoutTrainer


class PlainTrainer(Trainer):
    """`transformers.Trainer` that stops at a loss that is not finite."""

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One forward and backward.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        loss = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {float(loss)} at update {self.state.global_step + 1} of "
                f"{self.state.max_steps}; lower the learning rate or lengthen the warm-up"
            )
        return loss


@dataclass(frozen=True)
class Method:
    """A way to fine-tune a model that will be pruned.

    Attributes:
        label: what plots and tables call it.
        trainer: the class of its Trainer.
    """

    label: str
    trainer: type[Trainer]


METHODS: dict[str, Method] = {
    "targeted_dropout": Method("targeted dropout", TargetedDropoutTrainer),
    "none": Method("plain fine-tuning", PlainTrainer),
}
