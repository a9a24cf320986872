"""Generates the built-in task: is an English sentence acceptable?

The sentences are minimal pairs made from templates and a lexicon. A demonstration or a test can
therefore fine-tune without downloading data.
"""

from __future__ import annotations

import random

import datasets

from hf_td.tasks.glue.grammar import PHENOMENA, Pair, Template

NAME = "acceptability"

_MAX_MISSES = 1000
"""Draws without a new pair after which a phenomenon counts as exhausted."""

FEATURES = datasets.Features(
    {
        "sentence": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["unacceptable", "acceptable"]),
        "phenomenon": datasets.Value("string"),
        "idx": datasets.Value("int32"),
    }
)


def generate(
    seed: int = 0, train_size: int = 4000, validation_size: int = 1000
) -> datasets.DatasetDict:
    """Generate the splits `train` and `validation`.

    Both sentences of a pair are in one split. No sentence occurs twice. In each split half of the
    sentences are acceptable, and phenomena are equally frequent (to one pair). The result depends
    on the arguments alone, on every platform.

    Args:
        seed: seed of `random.Random`.
        train_size: number of training sentences, even.
        validation_size: number of validation sentences, even.

    Returns:
        Splits with the columns `sentence`, `label` (0 unacceptable, 1 acceptable), `phenomenon`
        (key of `grammar.PHENOMENA`) and `idx` (row number in the split).

    Raises:
        ValueError: a size is odd or negative, or more than the templates yield.
    """
    _check_size("train_size", train_size)
    _check_size("validation_size", validation_size)
    rng = random.Random(seed)
    seen: set[str] = set()
    sizes = {"validation": validation_size, "train": train_size}
    splits = {name: _split(rng, size // 2, seen) for name, size in sizes.items()}
    return datasets.DatasetDict({name: splits[name] for name in ("train", "validation")})


def _check_size(name: str, size: int) -> None:
    if size < 0 or size % 2:
        raise ValueError(
            f"{name} must be an even number of at least 0, got {size}. Sentences come in pairs."
        )


def _split(rng: random.Random, pairs: int, seen: set[str]) -> datasets.Dataset:
    """Draw `pairs` pairs, shuffle their sentences, and add these to `seen`."""
    rows = []
    for place, (phenomenon, templates) in enumerate(PHENOMENA.items()):
        count = (pairs + len(PHENOMENA) - 1 - place) // len(PHENOMENA)
        for good, bad in _new_pairs(rng, phenomenon, templates, count, seen):
            rows += [(good, 1, phenomenon), (bad, 0, phenomenon)]
    rng.shuffle(rows)
    columns = {
        "sentence": [sentence for sentence, _, _ in rows],
        "label": [label for _, label, _ in rows],
        "phenomenon": [phenomenon for _, _, phenomenon in rows],
        "idx": list(range(len(rows))),
    }
    return datasets.Dataset.from_dict(columns, features=FEATURES)


def _new_pairs(
    rng: random.Random,
    phenomenon: str,
    templates: tuple[Template, ...],
    count: int,
    seen: set[str],
) -> list[Pair]:
    """Draw `count` pairs of new sentences, from each template in turn."""
    pairs: list[Pair] = []
    while len(pairs) < count:
        template = templates[len(pairs) % len(templates)]
        pairs.append(_new_pair(rng, phenomenon, template, seen))
    return pairs


def _new_pair(rng: random.Random, phenomenon: str, template: Template, seen: set[str]) -> Pair:
    for _ in range(_MAX_MISSES):
        good, bad = template(rng)
        if good not in seen and bad not in seen:
            seen.update((good, bad))
            return good, bad
    raise ValueError(
        f"{template.__name__} of {phenomenon!r} yields no more new sentences. Every sentence must "
        "be new. Ask for fewer sentences."
    )
