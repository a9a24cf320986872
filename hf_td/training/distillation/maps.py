"""Linear maps from the hidden states of a student to the width of its teacher.

They are trained with the student, lie in its checkpoints, and are no part of the saved model. Their
gradients are not clipped.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback

_FILE = "distillation_maps.safetensors"


class HiddenMaps(nn.ModuleDict):
    """A linear map without bias for each hidden state that is distilled.

    A map begins as the identity on the width that both models have; all other entries are 0.

    Args:
        ours: width of the student.
        theirs: width of the teacher.
        states: indices of the hidden states.
    """

    def __init__(self, ours: int, theirs: int, states: Collection[int]) -> None:
        super().__init__({str(state): nn.Linear(ours, theirs, bias=False) for state in states})
        for parameter in self.parameters():
            nn.init.eye_(parameter)

    @property
    def by_state(self) -> dict[int, nn.Module]:
        """The maps by the index of the hidden state."""
        return {int(name): module for name, module in self.items()}

    def save(self, folder: str | Path) -> None:
        """Save the maps in a checkpoint."""
        save_file(self.state_dict(), Path(folder) / _FILE)

    def resume(self, folder: str | Path) -> None:
        """Load the maps of a checkpoint.

        Raises:
            FileNotFoundError: the checkpoint has none.
        """
        file = Path(folder) / _FILE
        if not file.is_file():
            raise FileNotFoundError(
                f"the checkpoint {folder} has no {_FILE}: it is of a run that mapped no hidden "
                "states. Resume with the settings of that run"
            )
        self.load_state_dict(load_file(file))


class FreshGradients(TrainerCallback):
    """A callback that clears the gradients of maps before each update.

    The Trainer clears those of its model alone.
    """

    def __init__(self, maps: HiddenMaps) -> None:
        self.maps = maps

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Clear the gradients; called before the first micro-batch of an update."""
        self.maps.zero_grad()


def make_maps(student: Any, teacher: Any, terms: Collection[str]) -> HiddenMaps | None:
    """Return the maps that the terms need; None if none is needed.

    Args:
        student: model whose hidden states are mapped; the maps are on its device, in float32.
        teacher: model with the states that are approached.
        terms: names of terms of the loss.

    Raises:
        ValueError: the widths differ, and the models have several stacks or no known width.
    """
    if not {"hidden", "last_hidden"} & set(terms):
        return None
    ours, theirs = _width(student), _width(teacher)
    if ours == theirs:
        return None
    layers = getattr(student.config.get_text_config(), "num_hidden_layers", None)
    if ours is None or theirs is None or layers is None or student.config.is_encoder_decoder:
        raise ValueError(
            f"hidden states of width {ours} cannot be mapped to the teacher's {theirs} in "
            f"{type(student).__name__}: maps are for models with one stack of layers of one width. "
            "Give a preset without hidden states (--distill logits)"
        )
    with torch.random.fork_rng(devices=[]):  # the first values of nn.Linear are not used
        maps = HiddenMaps(ours, theirs, range(layers + 1) if "hidden" in terms else [layers])
    return maps.to(next(student.parameters()).device)


def _width(model: Any) -> int | None:
    return getattr(model.config.get_text_config(), "hidden_size", None)
