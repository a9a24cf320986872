"""The handwritten digits that scikit-learn bundles: images for which nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np

from hf_td.extras import extra

# The most that a point has of ink.
_BLACK = 16


def load_digits(splits: Mapping[str, str], image: str, label: str) -> datasets.DatasetDict:
    """Images of 8 x 8 points: two thirds to train on, a sixth for each of validation and test.

    Args:
        splits: names of what is wanted, to which of `train`, `validation` and `test` it is.
        image: name of the column of images.
        label: name of the column of classes.

    Raises:
        ValueError: there is no such split.
    """
    with extra("tasks"):
        from sklearn.datasets import load_digits  # only who wants digits pays for the import

    found: Any = load_digits()
    parts = _parts(found.target)
    unknown = sorted(set(splits.values()) - set(parts))
    if unknown:
        raise ValueError(f"the digits have the splits {list(parts)}, no {unknown}")
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
    """The rows of each split, with as many of each class."""
    with extra("tasks"):
        from sklearn.model_selection import train_test_split

    rows = np.arange(len(labels))
    train, rest = train_test_split(rows, train_size=2 / 3, stratify=labels, random_state=0)
    halves = train_test_split(rest, train_size=0.5, stratify=labels[rest], random_state=0)
    return {"train": train, "validation": halves[0], "test": halves[1]}
