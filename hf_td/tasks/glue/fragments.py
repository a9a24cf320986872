"""Tells whole texts from fragments of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence


def whole_texts(texts: Sequence[str]) -> list[int]:
    """Indices of the texts that are part of no other text, in order; of equal texts, the first.

    The training set of SST-2 lists the phrases of its sentences as rows of their own: of its
    67,349 rows, 6,885 are whole. Texts are compared word by word, split at white space.

    >>> whole_texts(["a fine film", "this is a fine film", "fine", "a fine fil"])
    [1, 3]
    """
    words = [text.split() for text in texts]
    padded = [f" {' '.join(row)} " for row in words]
    holders: defaultdict[str, list[int]] = defaultdict(list)  # word to the texts that have it
    whole = []
    for index in sorted(range(len(texts)), key=lambda i: -len(padded[i])):
        # A text that holds this one is no shorter, so it was seen before.
        possible = min((holders[word] for word in words[index]), key=len, default=whole)
        if not any(padded[index] in padded[other] for other in possible):
            whole.append(index)
            for word in set(words[index]):
                holders[word].append(index)
    return sorted(whole)
