"""The protocol of sites: they are ranked, masked and removed without asking for their kind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from torch import Tensor

from hf_td.functional import Rule
from hf_td.ranking.sites.slices import Slice

Kind = Literal["weight", "unit", "expert", "layer"]


class Cost(NamedTuple):
    """The cost of one entry of a site, in each currency of a global budget.

    Attributes:
        units: entries.
        parameters: weights and biases that go with the entry.
        flops: floating-point operations per token.
    """

    units: float = 1.0
    parameters: float = 1.0
    flops: float = 1.0


class Site(Protocol):
    """A set of weights, units, experts or layers that are ranked together.

    An *entry* is what the site ranks: one weight, unit, expert or layer. Scores and masks over
    entries have the shape of `scores()`.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    kind: ClassVar[Kind]

    @property
    def name(self) -> str:
        """Dotted name of the layer whose weight is masked."""
        ...

    @property
    def layer(self) -> Any:
        """The layer whose weight is masked."""
        ...

    @property
    def index(self) -> int:
        """The number of the site in its model. It keys the draws; tied sites share it."""
        ...

    @property
    def given(self) -> Tensor | None:
        """Scores from elsewhere, in place of those computed from the weights."""
        ...

    @property
    def dim(self) -> int:
        """The dimension of `scores` along which candidates are ranked."""
        ...

    @property
    def rule(self) -> Rule:
        """The rule by which every update scores the weight; see `functional.Rule`."""
        ...

    @property
    def ranked_shape(self) -> tuple[int, ...]:
        """The shape of the scores."""
        ...

    @property
    def size(self) -> int:
        """The number of weights that the mask covers."""
        ...

    @property
    def most(self) -> float:
        """The largest fraction that can be removed."""
        ...

    @property
    def producers(self) -> tuple[Any, ...]:
        """The layers whose weights make the scores, once for each role of a layer."""
        ...

    @property
    def weights_per_entry(self) -> int:
        """The number of weights in the score of one entry."""
        ...

    def scores(self, *, wide: bool = False) -> Tensor:
        """Return the scores of all entries; the lowest are removed first.

        Args:
            wide: compute in float64. Scores of large weights overflow in float32.
        """
        ...

    def scale(self) -> Tensor | None:
        """Return the factors by which activations scale the scores, or None."""
        ...

    def eligible(self, scores: Tensor) -> Tensor:
        """Return the scores with infinity at entries that cannot be removed."""
        ...

    def to_weight(self, mask: Tensor) -> Tensor:
        """Return a mask over entries as one that broadcasts to the weight."""
        ...

    def sum_to_entries(self, values: Tensor) -> Tensor:
        """Sum values of the shape of the weight over the weights that each entry masks."""
        ...

    def cost(self, length: int) -> Cost:
        """Return the cost of one entry when attention reads `length` tokens."""
        ...

    def contains(self, name: str) -> bool:
        """Return True if removing an entry also removes weights of the layer of this name."""
        ...

    def parameters(self) -> Iterator[Tensor]:
        """Yield the tensors that `remove` writes to."""
        ...

    def slices(self, chosen: Tensor) -> Iterator[Slice]:
        """Yield the parts of parameters that belong to the chosen entries."""
        ...

    def remove(self, chosen: Tensor) -> None:
        """Set everything that belongs to the chosen entries to zero."""
        ...

    def mark_removed(self) -> None:
        """Update the model's other marks of removed entries after their weights became zero."""
        ...


def scores_to_prune(site: Site) -> Tensor:
    """Return the scores of a site, computed in float64 where they overflow in float32.

    Minus infinity is the score of what is removed already. The sum is finite only if all scores
    are, and is far cheaper than a mask of infinite ones.
    """
    scores = site.scores()
    if scores.sum().isfinite() or not (scores.isposinf() | scores.isnan()).any():
        return scores
    return site.scores(wide=True)


def tied_groups(sites: Iterable[Site]) -> dict[int, list[Site]]:
    """Group sites by their index: tied sites share one."""
    groups: dict[int, list[Site]] = {}
    for site in sites:
        groups.setdefault(site.index, []).append(site)
    return groups
