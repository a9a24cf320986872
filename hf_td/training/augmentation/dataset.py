"""A data set of rows and their variants, which change with the epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_td.training.augmentation.neighbours import nearest_words
from hf_td.training.augmentation.variants import Variation
from hf_td.training.augmentation.words import read_words

_OF_TOKENS = ("input_ids", "token_type_ids", "attention_mask")
_LABELS = ("labels", "label", "label_ids")  # the collators of transformers take all three


class VariantDataset(Dataset):
    """Tokenised rows, and after them variants of each, which have no label.

    A variant is a function of seed, epoch, row and its number: every process and a resumed run see
    the same. Add `VariantEpochs` to the callbacks of the Trainer, or set `epoch` in your own loop.

    Args:
        rows: a sequence of dictionaries with `input_ids`, without padding.
        variants: number of variants of each row, at least 1.
        tokenizer: tokenizer of the rows.
        table: embeddings of the tokens, `(tokens, width)`, whose nearest rows replace words.
        seed: seed of the variants.
        variation: how variants differ.

    Raises:
        ValueError: `variants` is below 1.
    """

    def __init__(
        self,
        rows: Any,
        variants: int,
        tokenizer: Any,
        table: torch.Tensor,
        *,
        seed: int = 0,
        variation: Variation | None = None,
    ) -> None:
        if variants < 1:
            raise ValueError(f"variants is at least 1, got {variants}")
        self.rows, self.variants, self.seed = rows, variants, seed
        self.variation = Variation() if variation is None else variation
        self._words = read_words(tokenizer)
        used = {int(token) for row in rows for token in row["input_ids"]}
        self._near = nearest_words(table, self._words.whole, used)
        # Shared: loaders that live for several epochs see the epoch of the main process.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """Number of the epoch, from 0."""
        return int(self._epoch)

    @epoch.setter
    def epoch(self, value: int) -> None:
        self._epoch.fill_(value)

    def __len__(self) -> int:
        """Return the number of rows and variants."""
        return len(self.rows) * (1 + self.variants)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a row, or from `len(rows)` on a variant.

        Raises:
            IndexError: there is no such index.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{index} is not below {len(self)}")
        row = self.rows[index % len(self.rows)]
        return row if index < len(self.rows) else self._variant(row, index)

    def _variant(self, row: dict[str, Any], index: int) -> dict[str, Any]:
        draws = np.random.default_rng((self.seed, self.epoch, index))
        tokens = np.asarray(row["input_ids"])
        changed, left = self.variation.draw(tokens, self._words, self._near, draws)
        columns = {n: np.asarray(row[n])[left].tolist() for n in _OF_TOKENS[1:] if n in row}
        columns["input_ids"] = changed[left].tolist()
        columns |= {name: no_label(row[name]) for name in _LABELS if name in row}
        return {**row, **columns}


def no_label(label: Any) -> float | int:
    """Return what stands for the label of a row that has none: NaN for a number, else -100."""
    if isinstance(label, torch.Tensor):
        return float("nan") if label.is_floating_point() else -100
    return float("nan") if np.issubdtype(np.asarray(label).dtype, np.floating) else -100


class VariantEpochs(TrainerCallback):
    """A callback that tells a `VariantDataset` the epoch."""

    def __init__(self, data: VariantDataset) -> None:
        self.data = data

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the epoch, also when a run resumes inside it."""
        self.data.epoch = int(state.epoch or 0)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin at the first epoch again: the order of rows by length is drawn before training."""
        self.data.epoch = 0
