"""Selects rows: a fixed random subset to train on, the first rows to evaluate on."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress

import datasets
import numpy as np

from hf_td.extras import extra


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


def divide(
    rows: datasets.Dataset, percentage: int, label: str | None, seed: int = 0
) -> tuple[datasets.Dataset, datasets.Dataset, str]:
    """Divide rows into those to train on and those to measure on.

    Args:
        rows: all rows.
        percentage: share of the rows to measure on, in percent.
        label: column whose values have the same shares in both parts where that is possible; None
            measures on the last rows.
        seed: seed of the random choice.

    Returns:
        The two parts, in the order of `rows`, and how they were chosen, in words.

    Raises:
        ValueError: there is only one row.
    """
    size = max(1, round(len(rows) * percentage / 100))
    if len(rows) <= size:
        raise ValueError(f"{len(rows)} row cannot be divided. Give a file to measure on.")
    if label is None:
        last = len(rows) - size
        return rows.select(range(last)), rows.select(range(last, len(rows))), "the last rows"
    values = [str(value) for value in rows[label][:]]
    pool = _without_one_of_each(values)
    pool = pool if len(pool) >= size else list(range(len(rows)))
    held, how = _drawn(pool, [values[i] for i in pool], size, seed)
    train = sorted(set(range(len(rows))) - set(held))
    return rows.select(train), rows.select(sorted(held)), how.format(label=label, seed=seed)


def _without_one_of_each(values: list[str]) -> list[int]:
    """Return all rows but one of each label, which must be learned; all if most rows differ."""
    first = {value: i for i, value in reversed(list(enumerate(values)))}
    kept = set(first.values()) if len(first) <= len(values) / 2 else set()
    return [i for i in range(len(values)) if i not in kept]


def _drawn(pool: list[int], values: list[str], size: int, seed: int) -> tuple[list[int], str]:
    """Return rows of a pool, and how they were chosen."""
    with extra("tasks"):
        from sklearn.model_selection import train_test_split

    counts = Counter(values)
    # Values that occur once, as most numbers of a regression, are one stratum: else no such row
    # could be measured.
    strata = [f"={value}" if counts[value] > 1 else "" for value in values]
    usable = [i for i, stratum in enumerate(strata) if stratum or strata.count("") > 1]
    labels = [strata[i] for i in usable]
    if any(labels):
        with suppress(ValueError):  # too few rows for this many labels
            _, held = train_test_split(usable, test_size=size, stratify=labels, random_state=seed)
            return [pool[i] for i in held], "stratified by {label}, seed {seed}"
    return random.Random(seed).sample(pool, size), "random, seed {seed}"
