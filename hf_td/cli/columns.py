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
        model: a folder, or an id on the Hub. A folder beside the results of `hf-td train text`,
            such as `out/seed-42`, was trained on the columns that they record.
        text: option with one column, or two for pairs; None if it was not given.
        label: option with the column of labels; None if it was not given.
    """
    trained = _trained_on(Path(model).parent / RESULTS)
    texts = [trained.get("text_column", "text"), trained.get("text_pair_column")]
    labels = trained.get("label_column", [])
    known = [name for name in texts if name is not None] if trained else []
    return Columns(tuple(text or known), label or (labels[0] if len(labels) == 1 else None))


def _trained_on(results: Path) -> Mapping[str, Any]:
    """Return the columns that results record, other than the defaults; empty if there are none."""
    try:
        given = read_json_object(results)["configuration"]["arguments"]
        chosen = {n: given[n] for n in ("text_column", "text_pair_column") if n in given}
        label = given.get("label_column", [])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {**chosen, "label_column": [label] if isinstance(label, str) else label}
