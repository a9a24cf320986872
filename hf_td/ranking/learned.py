"""Learned scores: found by a method in training, for pruning to rank by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hf_td.ranking.saved import Saved

LEARNED = Saved("learned_scores.safetensors", "learned", "_hf_td_learned", "learned scores")
FILE = LEARNED.file


def attach_learned(model: nn.Module, scores: Mapping[str, Tensor]) -> None:
    """Keep scores with a model.

    Args:
        model: the trained model.
        scores: by the name of the site (see `hf_td.ranking.sites`), each of the shape that the site
            ranks. The lowest are pruned first. Empty if the method learns no scores.
    """
    LEARNED.attach(model, dict(scores), save_learned)


def load_learned(model: nn.Module, folder: str | Path) -> None:
    """Attach the scores that were saved in a folder to a model that does not find them.

    Raises:
        FileNotFoundError: the folder has none.
        ValueError: the file is damaged, or not of scores.
    """
    attach_learned(model, LEARNED.load(Path(folder) / FILE, model))


def find_learned(model: nn.Module) -> dict[str, Tensor]:
    """Return the scores of a model, found by the rule of `hf_td.ranking.saved`; empty if none.

    Raises:
        ValueError: the file is damaged, or not of scores.
    """
    attached = LEARNED.attached(model)
    return (LEARNED.find(model) or {}) if attached is None else attached[0]


def download_learned(model: nn.Module, **options: Any) -> dict[str, Tensor]:
    """Return the scores in a model's repository on the Hub; see `Saved.download`."""
    return LEARNED.download(model, **options) or {}


def save_learned(model: nn.Module, folder: str | Path) -> None:
    """Write a model's scores to an existing folder; no file if it has none."""
    LEARNED.save(folder, find_learned(model))
