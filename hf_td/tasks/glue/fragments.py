"""Finds texts that are part of other texts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence


def whole_texts(texts: Sequence[str]) -> list[int]:
    """Return the sorted indices of texts that are part of no other text; of equal texts the first.

    Texts are compared word by word, split at white space. SST-2's training set lists phrases of
    its sentences as rows of their own: 6,885 of its 67,349 rows are whole.

    >>> whole_texts(["a fine film", "this is a fine film", "fine", "a fine fil"])
    [1, 3]
    """
    words = [text.split() for text in texts]
    padded = [f" {' '.join(row)} " for row in words]
    holders: defaultdict[str, list[int]] = defaultdict(list)  # word to the texts that contain it
    whole = []
    for index in sorted(range(len(texts)), key=lambda i: -len(padded[i])):
        # A text that contains this one is at least as long, so it came earlier.
        possible = min((holders[word] for word in words[index]), key=len, default=whole)
        if not any(padded[index] in padded[other] for other in possible):
            whole.append(index)
            for word in set(words[index]):
                holders[word].append(index)
    return sorted(whole)
