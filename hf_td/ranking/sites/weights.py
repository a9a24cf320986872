"""Sites of single weights, ranked inside each output unit, the matrix or the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_td import functional
from hf_td.config import Neighbours, RankOver
from hf_td.functional import Rule
from hf_td.ranking import importance
from hf_td.ranking.activations import Activations
from hf_td.ranking.sites.site import Cost, Kind
from hf_td.ranking.sites.slices import Slice, clear


@dataclass(frozen=True, eq=False)
class WeightSite:
    """The weights of a layer, by default ranked inside each output unit (paper, section 4.1).

    Attributes:
        name: dotted name of the layer.
        layer: the linear layer.
        index: the number of the site in its model, which keys its draws.
        activations: scale the scores; None for plain magnitudes.
        given: scores from elsewhere, in place of those computed from the weights.
        pattern: allows only the lowest of each group of neighbours to be pruned.
        random_key: of fixed random scores, in place of those computed from the weights.
        over: what is ranked together: the weights of a row, of the matrix, or of the model.
        cap: the most of this matrix that a ranking over the model removes, in (0, 1].
    """

    kind: ClassVar[Kind] = "weight"

    name: str
    layer: Any
    index: int
    activations: Activations | None = None
    given: Tensor | None = None
    pattern: Neighbours | None = None
    random_key: int | None = None
    over: RankOver = "row"
    cap: float = 1.0

    @property
    def dim(self) -> int:
        """The dimension of `scores` along which candidates are ranked."""
        return importance.fan_in_dim(self.layer)

    @property
    def rule(self) -> Rule:
        """The rule by which every update scores the weight."""
        return Rule(self.dim, self.pattern, self.random_key)

    @property
    def ranked_shape(self) -> tuple[int, ...]:
        """The shape of the scores: that of the weight."""
        return tuple(self.layer.weight.shape)

    @property
    def size(self) -> int:
        """The number of weights that the mask covers."""
        return self.layer.weight.numel()

    def scores(self, *, wide: bool = False) -> Tensor:
        """Return scores in the shape of the weight; the lowest are pruned first."""
        if self.given is not None:
            return self.given
        weight = self.layer.weight.detach()
        weight = weight.double() if wide else weight
        return functional.weight_scores(weight, self.scale(), self.rule._replace(pattern=None))

    def eligible(self, scores: Tensor) -> Tensor:
        """Return the scores with infinity where the pattern allows no candidate."""
        if self.pattern is None:
            return scores
        allowed = functional.lowest_neighbours(scores, *self.pattern, self.dim)
        return scores.masked_fill(~allowed, torch.inf)

    @property
    def most(self) -> float:
        """The largest fraction that can be pruned."""
        return 1.0 if self.pattern is None else self.pattern.share

    def scale(self) -> Tensor | None:
        """Return the root mean square of each input, `(fan_in,)`; None if it was not measured."""
        if self.activations is None:
            return None
        weight = self.layer.weight
        scale = self.activations.scale(self.name, weight.shape[self.dim])
        return None if scale is None else scale.to(weight.device)

    def to_weight(self, mask: Tensor) -> Tensor:
        """Return the mask: it has the shape of the weight."""
        return mask

    def parameters(self) -> Iterator[Tensor]:
        """Yield the tensor that `remove` writes to."""
        yield self.layer.weight.data

    def slices(self, chosen: Tensor) -> Iterator[Slice]:
        """Yield the weight with the chosen entries."""
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
