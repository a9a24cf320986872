"""Makes a variant of a tokenised text: words replaced, deleted and cropped."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hf_td.training.augmentation.words import Words


@dataclass(frozen=True, kw_only=True)
class Variation:
    """How a variant differs from its text.

    Attributes:
        replaced: probability that a word of one token becomes one of its neighbours.
        deleted: probability that a word is left out.
        cropped: probability that a part of a text is cropped to a span of its words, at least half
            of them.
    """

    replaced: float = 0.4
    deleted: float = 0.1
    cropped: float = 0.2

    def draw(
        self, tokens: np.ndarray, words: Words, near: np.ndarray, draws: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw a variant.

        Special tokens stay. They divide a row into its parts, such as the two texts of a pair, and
        no part loses all its words.

        Args:
            tokens: ids `(tokens,)` of a row without padding.
            words: roles of the tokens.
            near: neighbours of the tokens, see `nearest_words`.
            draws: source of the random numbers.

        Returns:
            The ids with replaced words `(tokens,)`, and a mask of the tokens that are left.
        """
        special = words.special[tokens]
        begins = words.begins[tokens] | special
        begins[1:] |= special[:-1]
        begins[0] = True
        word = begins.cumsum() - 1  # a special token is a word of its own
        uniform = draws.random((3, len(tokens)))
        parts = _parts(special[begins])
        left = uniform[0, : word[-1] + 1] >= self.deleted
        left |= special[begins]
        for start, end in parts:
            self._crop(left[start:end], draws)
        return self._replace(tokens, begins, near, uniform[1:]), left[word]

    def _crop(self, left: np.ndarray, draws: np.random.Generator) -> None:
        """Take what is outside a span of words out of a mask, in place; never all words."""
        size, first, length = len(left), 0, len(left)
        if draws.random() < self.cropped:
            length = int(draws.integers((size + 1) // 2, size + 1))
            first = int(draws.integers(size - length + 1))
            left[:first] = False
            left[first + length :] = False
        if not left.any():  # all words of the span were deleted
            left[first : first + length] = True

    def _replace(
        self, tokens: np.ndarray, begins: np.ndarray, near: np.ndarray, uniform: np.ndarray
    ) -> np.ndarray:
        """Return the tokens with words replaced, by random numbers `(2, tokens)` in [0, 1)."""
        if not near.shape[1]:
            return tokens
        alone = begins.copy()
        alone[:-1] &= begins[1:]
        others = near[tokens, (uniform[0] * near.shape[1]).astype(np.intp)]
        return np.where(alone & (uniform[1] < self.replaced) & (others >= 0), others, tokens)


def _parts(special: np.ndarray) -> list[tuple[int, int]]:
    """Return start and end of each run of words between special ones."""
    edges = [-1, *np.flatnonzero(special).tolist(), len(special)]
    return [(left + 1, right) for left, right in pairwise(edges) if right > left + 1]
