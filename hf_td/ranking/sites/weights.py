"""The weights of a layer, ranked inside each output unit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_td import functional
from hf_td.config import Neighbours
from hf_td.kernels import Ranked
from hf_td.ranking import importance
from hf_td.ranking.activations import Activations
from hf_td.ranking.sites.site import Cost, Kind
from hf_td.ranking.sites.slices import Slice, clear


@dataclass(frozen=True, eq=False)
class WeightSite:
    """Ranks the weights of a layer inside each of its output units (paper, section 4.1).

    Attributes:
        name: dotted name of the layer.
        layer: the linear layer.
        index: the number of the site in its model, which keys its draws.
        activations: to scale the scores with, or None.
        given: scores from elsewhere, in place of those that are read off the weights.
        pattern: where only the lowest of each group of neighbours may go.
    """

    kind: ClassVar[Kind] = "weight"

    name: str
    layer: Any
    index: int
    activations: Activations | None = None
    given: Tensor | None = None
    pattern: Neighbours | None = None

    @property
    def dim(self) -> int:
        """The dimension of `scores` along which candidates are ranked."""
        return importance.fan_in_dim(self.layer)

    @property
    def size(self) -> int:
        """How many weights the mask is for."""
        return self.layer.weight.numel()

    def everything(self) -> Tensor:
        """The mask that drops nothing."""
        return torch.ones_like(self.layer.weight, dtype=torch.bool)

    def scores(self) -> Tensor:
        """Of the shape of the weight."""
        if self.given is not None:
            return self.given
        return importance.weight_scores(self.layer, self._activation())

    def eligible(self, scores: Tensor) -> Tensor:
        """The scores, infinite where the pattern lets nothing go."""
        if self.pattern is None:
            return scores
        may_go = functional.lowest_neighbours(scores, *self.pattern, self.dim)
        return scores.masked_fill(~may_go, torch.inf)

    @property
    def most(self) -> float:
        """The fraction that can go at most."""
        return 1.0 if self.pattern is None else self.pattern.share

    def ranked(self, compute: torch.dtype | None = None) -> Ranked:
        """What is ranked, of which masked weights will be wanted in a type."""
        return Ranked(self.layer.weight, self.dim, self._activation(), compute)

    def _activation(self) -> Tensor | None:
        """`(fan_in,)`: root mean square of the inputs."""
        if self.activations is None:
            return None
        weight = self.layer.weight
        scale = self.activations.scale(self.name, weight.shape[self.dim])
        return None if scale is None else scale.to(weight.device)

    def spread(self, mask: Tensor) -> Tensor:
        """From what was ranked to what broadcasts to the weight: here the same."""
        return mask

    def parameters(self) -> Iterator[Tensor]:
        """What `remove` writes to."""
        yield self.layer.weight.data

    def slices(self, chosen: Tensor) -> Iterator[Slice]:
        """What belongs to the chosen weights: they themselves."""
        yield self.layer.weight, chosen

    def remove(self, chosen: Tensor) -> None:
        """Set the chosen weights to zero."""
        clear(self.slices(chosen))

    def mark_removed(self) -> None:
        """Do nothing: zeros are all that marks a removed weight."""

    @property
    def producers(self) -> tuple[Any, ...]:
        """The layer itself."""
        return (self.layer,)

    @property
    def weights_per_entry(self) -> int:
        """One weight."""
        return 1

    def sum_to_entries(self, values: Tensor) -> Tensor:
        """Return the values: every weight is an entry."""
        return values

    def cost(self, length: int) -> Cost:
        """Return 1 in every currency."""
        return Cost()

    def contains(self, name: str) -> bool:
        """Return False: no other layer depends on a single weight."""
        return False
