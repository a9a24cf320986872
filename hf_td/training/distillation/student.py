"""What a student has to be, for its layers to be compared with those of a teacher."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import PreTrainedModel


def check_runs_whole(student: nn.Module) -> None:
    """Check that no layer is skipped at random in training, as LayerDrop does.

    Raises:
        ValueError: layers are skipped, so that it is not known of which layer a state is.
    """
    rates = {
        name: rate
        for config in configs_of(student)
        for name, rate in vars(config).items()
        if name.endswith("layerdrop") and rate
    }
    copied = [getattr(module, "layerdrop", 0.0) for module in student.modules()]
    rates |= {"layerdrop": max(copied)} if any(copied) and not rates else {}
    if rates:
        given = ", ".join(f"{name}={rate:g}" for name, rate in rates.items())
        zero = ", ".join(f"{name}=0.0" for name in rates)
        raise ValueError(
            f"the student skips layers at random ({given}), so its hidden states and attention "
            f"maps cannot be compared layer by layer. Load it by from_pretrained(..., {zero}), or "
            "give a preset of the logits alone (distill)"
        )


def configs_of(model: nn.Module) -> Iterator[Any]:
    """Yield the configs of a model and of its parts, some of them more than once."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            waiting: list[Any] = [module.config]
            while waiting:
                config = waiting.pop()
                yield config
                parts = (getattr(config, name, None) for name in config.sub_configs)
                waiting += [part for part in parts if part is not None]
