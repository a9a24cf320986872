"""What is ranked in an update, and how `functional` masks it."""

from __future__ import annotations

from collections.abc import Sequence
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
        compute: the type that the masked weight will be wanted in; None where it is not known.
    """

    weight: Tensor
    dim: int
    scale: Tensor | None
    compute: torch.dtype | None = None

    def scores(self) -> Tensor:
        """Of the shape of the weight."""
        return functional.weight_scores(self.weight, self.scale, self.dim)

    def keep_mask(self, fraction: float, drop_rate: float = 1.0, key: int = 0) -> Tensor:
        """Boolean, of the shape of the weight: what an update keeps whose draws have this key."""
        candidates = functional.candidate_mask(self.scores(), fraction, self.dim)
        generator = functional.generator(candidates.device, key)
        return functional.keep_mask(candidates, drop_rate, generator)


class Order(NamedTuple):
    """What is wanted of weights that are ranked.

    Attributes:
        fraction: the targeting (gamma), in [0, 1).
        drop_rate: alpha, the probability that a candidate is dropped, in [0, 1].
        keys: what the draws of each weight are a function of, 64-bit integers; none are needed
            where every candidate is dropped.
        masked: whether masked weights are wanted too.
    """

    fraction: float
    drop_rate: float = 1.0
    keys: Sequence[int] = ()
    masked: bool = True

    def of(self, places: Sequence[int]) -> Order:
        """The same of some of the weights."""
        return self._replace(keys=[self.keys[place] for place in places]) if self.keys else self
