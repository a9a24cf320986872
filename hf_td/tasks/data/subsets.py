"""Selects rows: a fixed random subset to train on, the first rows to evaluate on."""

from __future__ import annotations

import datasets
import numpy as np


def check_size(name: str, size: int | None) -> None:
    """Raise ValueError if the size is neither positive nor None (all rows)."""
    if size is not None and size < 1:
        raise ValueError(f"{name} must be at least 1, or None for all rows. Got {size}.")


def random_subset(split: datasets.Dataset, size: int | None, seed: int = 0) -> datasets.Dataset:
    """Return at most `size` rows, a function of the seed; all rows if `size` is None."""
    if size is None or size >= len(split):
        return split
    return split.shuffle(seed=seed).select(range(size))


def first_rows(split: datasets.Dataset, size: int | None) -> datasets.Dataset:
    """Return at most the first `size` rows; all rows if `size` is None."""
    return split if size is None else split.select(range(min(size, len(split))))


def hold_out(
    split: datasets.Dataset, size: int, seed: int = 0
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Return the other rows of a split, in their order, and `size` random rows of it.

    Raises:
        ValueError: no other rows would be left.
    """
    if size >= len(split):
        raise ValueError(f"cannot hold {size} rows out of {len(split)}. Hold out fewer.")
    rows = np.random.default_rng(seed).permutation(len(split)).tolist()
    return split.select(sorted(rows[size:])), split.select(sorted(rows[:size]))
