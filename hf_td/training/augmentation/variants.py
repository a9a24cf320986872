"""Makes a variant of a tokenised text: words replaced, deleted and cropped."""

from __future__ import annotations

from dataclasses import dataclass

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
        follows = np.concatenate(([True], special[:-1]))
        begins = special | words.begins[tokens] | follows
        word = np.cumsum(begins) - 1  # a special token is a word of its own
        left = draws.random(word[-1] + 1) >= self.deleted
        left &= self._span(special[begins], draws)
        left = _keep_each_part(left, special[begins])
        return self._replace(tokens, begins, near, draws), left[word]

    def _span(self, special: np.ndarray, draws: np.random.Generator) -> np.ndarray:
        """Return a mask of the words inside the crops; special words are inside."""
        inside = np.ones(len(special), dtype=bool)
        for start, end in _parts(special):
            size = end - start
            if draws.random() >= self.cropped:
                continue
            length = int(draws.integers((size + 1) // 2, size + 1))
            first = start + int(draws.integers(size - length + 1))
            inside[start:first] = False
            inside[first + length : end] = False
        return inside

    def _replace(
        self, tokens: np.ndarray, begins: np.ndarray, near: np.ndarray, draws: np.random.Generator
    ) -> np.ndarray:
        if not near.shape[1]:
            return tokens
        alone = begins & np.concatenate((begins[1:], [True]))
        others = near[tokens, draws.integers(near.shape[1], size=len(tokens))]
        chosen = alone & (draws.random(len(tokens)) < self.replaced) & (others >= 0)
        return np.where(chosen, others, tokens)


def _parts(special: np.ndarray) -> list[tuple[int, int]]:
    """Return start and end of each run of words between special ones."""
    edges = np.flatnonzero(np.diff(np.concatenate(([True], special, [True])).astype(np.int8)))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def _keep_each_part(left: np.ndarray, special: np.ndarray) -> np.ndarray:
    """Keep all words of a part that would lose all, and all special words."""
    left = left | special
    for start, end in _parts(special):
        if not left[start:end].any():
            left[start:end] = True
    return left
