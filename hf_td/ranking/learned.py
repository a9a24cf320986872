"""Scores that a method learned while it trained, for pruning to rank by.

They lie beside the weights, since a stock checkpoint has no place for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

# Lies beside the weights of a model that was trained by a method with scores of its own.
FILE = "learned_scores.safetensors"

_KEY = "_hf_td_learned"


def attach_learned(model: nn.Module, scores: Mapping[str, Tensor]) -> None:
    """Keep scores with a model.

    Args:
        model: that was trained.
        scores: by the name of the site (see `hf_td.ranking.sites`), of the shape that it ranks; the
            lowest go first. Empty where a method has none of its own.
    """
    model.__dict__[_KEY] = dict(scores)


def find_learned(model: nn.Module) -> dict[str, Tensor]:
    """The scores that are with a model, or beside the weights that it was loaded from."""
    if _KEY not in model.__dict__:
        path = Path(getattr(model, "name_or_path", "") or ".") / FILE
        found = load_file(path) if getattr(model, "name_or_path", "") and path.is_file() else {}
        attach_learned(model, found)
    return model.__dict__[_KEY]


def save_learned(model: nn.Module, folder: str | Path) -> None:
    """Write a model's scores beside its weights, in an existing folder; nothing without any."""
    scores = find_learned(model)
    if scores:
        save_file({n: s.cpu().contiguous() for n, s in scores.items()}, Path(folder) / FILE)
