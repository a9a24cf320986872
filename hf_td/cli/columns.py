"""Finds the columns of texts and labels: the options, else those of the model's training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_td.files import read_json_object
from hf_td.tasks.data.calibration import Columns
from hf_td.tasks.experiment.output import RESULTS


def columns_of(model: str, text: Sequence[str] | None, label: str | None) -> Columns:
    """Return the columns to read for a model.

    Args:
        model: a folder, or an id on the Hub. A folder beside or below the results of `hf-td train
            text`, such as `out/seed-42` and `out/seed-42/dense`, was trained on the columns that
            they record. Other data may lack these.
        text: option with one column, or two for pairs; None if it was not given.
        label: option with the column of labels; None if it was not given.
    """
    trained = _training_of(Path(model))
    first, second = trained.get("text_column"), trained.get("text_pair_column")
    known = [first or "text"] if first or second else []
    known += [second] if second else []
    labels = trained.get("label_column", [])
    labels = [labels] if isinstance(labels, str) else labels
    labels = labels if len(labels) == 1 else []
    optional: list[str] = [*([] if text else known), *([] if label else labels)]
    return Columns(
        tuple(text or known), label or (labels[0] if labels else None), frozenset(optional)
    )


def _training_of(model: Path) -> Mapping[str, Any]:
    """Return the arguments of the run that wrote a folder that are no defaults, or none."""
    places = model.resolve().parents[:2] if model.is_dir() else ()
    found = (_arguments_of(place / RESULTS) for place in places)
    return next((arguments for arguments in found if arguments is not None), {})


def _arguments_of(results: Path) -> Mapping[str, Any] | None:
    try:
        found = read_json_object(results)["configuration"]["arguments"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, dict) else None
