"""The handwritten digits that scikit-learn bundles: images without a download."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np

from hf_td.extras import extra

_BLACK = 16  # largest value of a pixel


def load_digits(splits: Mapping[str, str], image: str, label: str) -> datasets.DatasetDict:
    """Load images of 8 x 8 pixels: two thirds for training, a sixth each for validation and test.

    Args:
        splits: maps each wanted split to `train`, `validation` or `test`.
        image: column for the images.
        label: column for the classes.

    Raises:
        ValueError: there is no such split.
    """
    with extra("tasks"):
        from sklearn.datasets import load_digits  # slow to import

    found: Any = load_digits()
    parts = _parts(found.target)
    unknown = sorted(set(splits.values()) - set(parts))
    if unknown:
        raise ValueError(f"the digits have no split {unknown}. They have {list(parts)}.")
    pixels = (found.images * 255 / _BLACK).astype(np.uint8)
    names = datasets.ClassLabel(names=[str(name) for name in found.target_names])
    features = datasets.Features({image: datasets.Image(), label: names})
    chosen = {split: parts[name] for split, name in splits.items()}
    columns = {
        split: {image: list(pixels[rows]), label: found.target[rows].tolist()}
        for split, rows in chosen.items()
    }
    return datasets.DatasetDict(
        {split: datasets.Dataset.from_dict(rows, features) for split, rows in columns.items()}
    )


def _parts(labels: np.ndarray) -> dict[str, Any]:
    """Return the rows of each split, stratified by class."""
    with extra("tasks"):
        from sklearn.model_selection import train_test_split

    rows = np.arange(len(labels))
    train, rest = train_test_split(rows, train_size=2 / 3, stratify=labels, random_state=0)
    halves = train_test_split(rest, train_size=0.5, stratify=labels[rest], random_state=0)
    return {"train": train, "validation": halves[0], "test": halves[1]}
