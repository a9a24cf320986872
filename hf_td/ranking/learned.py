"""Scores that a method learned while it trained, for pruning to rank by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hf_td.ranking.saved import Saved

LEARNED = Saved("learned_scores.safetensors", "_hf_td_learned", "learned scores")
FILE = LEARNED.file


def attach_learned(model: nn.Module, scores: Mapping[str, Tensor]) -> None:
    """Keep scores with a model.

    Args:
        model: that was trained.
        scores: by the name of the site (see `hf_td.ranking.sites`), of the shape that it ranks; the
            lowest are pruned first. Empty where a method has none of its own.
    """
    LEARNED.attach(model, dict(scores))


def find_learned(model: nn.Module) -> dict[str, Tensor]:
    """Return the scores of a model by the rule of `hf_td.ranking.saved`; empty without any."""
    attached = LEARNED.attached(model)
    return (LEARNED.find(model) or {}) if attached is None else attached[0]


def download_learned(model: nn.Module, **options: Any) -> dict[str, Tensor]:
    """Return the scores in a model's repository on the Hub; see `Saved.download`."""
    return LEARNED.download(model, **options) or {}


def save_learned(model: nn.Module, folder: str | Path) -> None:
    """Write a model's scores to an existing folder; nothing where it has none."""
    LEARNED.save(folder, find_learned(model))
