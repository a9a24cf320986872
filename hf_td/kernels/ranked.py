"""What is ranked in an update, and how `functional` masks it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hf_td import functional


class Drawn(NamedTuple):
    """The mask of an update.

    Attributes:
        keep: boolean, of the shape of the weight: False where an entry is dropped.
        masked: the weight without these, where it fell off on the way in the type that was asked
            for; else None.
    """

    keep: Tensor
    masked: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Ranked:
    """A weight whose entries are ranked inside each output unit.

    Attributes:
        weight: as its layer stores it, floating point.
        dim: the dimension that runs over the inputs, along which entries are ranked.
        scale: what magnitudes are multiplied with, `(fan_in,)`, float32, not negative; None for
            ones.
        key: what draws are a function of, a 64-bit integer.
        compute: the type that the masked weight will be wanted in; None where it is not known.
    """

    weight: Tensor
    dim: int
    scale: Tensor | None
    key: int
    compute: torch.dtype | None = None

    def is_as(self, other: Ranked) -> bool:
        """Whether the same is ranked in the same way; the weight may have learned since."""
        same = self.weight is other.weight and self.scale is other.scale
        settings = self.dim, self.key, self.compute
        return same and settings == (other.dim, other.key, other.compute)

    def scores(self) -> Tensor:
        """Of the shape of the weight."""
        return functional.weight_scores(self.weight, self.scale, self.dim)

    def keep_mask(self, fraction: float, drop_rate: float) -> Tensor:
        """Boolean, of the shape of the weight: what the update keeps."""
        candidates = functional.candidate_mask(self.scores(), fraction, self.dim)
        generator = functional.generator(candidates.device, self.key)
        return functional.keep_mask(candidates, drop_rate, generator)
