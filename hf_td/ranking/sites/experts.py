"""The experts of a mixture, ranked against each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hf_td import functional
from hf_td.anatomy import Mixture
from hf_td.functional import Rule
from hf_td.modules.routing import mark_pruned, pruned_experts
from hf_td.ranking import importance
from hf_td.ranking.activations import Activations
from hf_td.ranking.sites.site import Cost, Kind
from hf_td.ranking.sites.slices import Slice, clear


@dataclass(frozen=True, eq=False)
class ExpertSite:
    """Ranks the experts of a mixture, which go at their router: it does not choose them.

    Attributes:
        name: dotted name of the router.
        layer: the router.
        index: the number of the site in its model, which keys its draws.
        mixture: what the experts belong to.
        places: modules, and names of parameters in them, that have an entry for each expert.
        activations: to scale the scores with, or None.
        given: scores from elsewhere, in place of those that are read off the weights.
        random_key: of fixed random scores; None for scores that are read off the weights.
    """

    kind: ClassVar[Kind] = "expert"

    name: str
    layer: Any
    index: int
    mixture: Mixture
    places: tuple[tuple[nn.Module, str], ...]
    activations: Activations | None = None
    given: Tensor | None = None
    random_key: int | None = None

    @property
    def dim(self) -> int:
        """The dimension of `scores` along which candidates are ranked."""
        return 0

    @property
    def size(self) -> int:
        """How many weights the mask is for: all that the experts have."""
        return sum(weight.numel() for weight in self.weights)

    @property
    def most(self) -> float:
        """The fraction that can be asked for at most; as many as tokens need stay in any case."""
        return 1.0

    def eligible(self, scores: Tensor) -> Tensor:
        """The scores, infinite for as many of the highest as each token goes to: these stay."""
        return scores.index_fill(0, scores.topk(self.mixture.chosen).indices, torch.inf)

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """The 3-D parameters of the experts."""
        return tuple(parameter for parameter in self.parameters() if parameter.dim() == 3)

    @property
    def rule(self) -> Rule:
        """What the scores are along: the experts."""
        return Rule(0)

    @property
    def ranked_shape(self) -> tuple[int, ...]:
        """The shape of the scores: `(experts,)`."""
        return (self.mixture.units,)

    def scores(self) -> Tensor:
        """`(experts,)`: L2 norm of the weights of each expert; minus infinity if it is gone.

        With activations it is scaled with the root mean square of the weight that the router gives
        the expert.
        """
        if self.given is not None:
            scores = self.given
        elif self.random_key is not None:
            device = self.layer.weight.device
            scores = functional.random_scores(self.ranked_shape, self.random_key, device)
        else:
            scores = importance.expert_scores(self.weights, self.scale())
        return scores.masked_fill(pruned_experts(self.layer.module), -torch.inf)

    def scale(self) -> Tensor | None:
        """Return the root mean square of the weight that each expert gets, `(experts,)`."""
        if self.activations is None:
            return None
        scale = self.activations.scale(self.name, self.mixture.units)
        return None if scale is None else scale.to(self.layer.weight.device)

    def spread(self, mask: Tensor) -> Tensor:
        """Return a mask over experts as the one of the router: here the mask itself."""
        return mask

    def parameters(self) -> Iterator[Tensor]:
        """Yield what `remove` writes to."""
        yield from (module.get_parameter(name).data for module, name in self.places)

    def slices(self, chosen: Tensor) -> Iterator[Slice]:
        """Yield what belongs to the chosen experts: their entries of the parameters."""
        for module, name in self.places:
            parameter = module.get_parameter(name)
            yield parameter, chosen.view(-1, *[1] * (parameter.dim() - 1)).to(parameter.device)

    def remove(self, chosen: Tensor) -> None:
        """Set all that belongs to the chosen experts to zero, and let the router leave them out."""
        clear(self.slices(chosen))
        self.mark_removed()

    def mark_removed(self) -> None:
        """Let the router leave out exactly the experts whose rows are zero now."""
        mark_pruned(self.layer.module)

    @property
    def producers(self) -> tuple[Any, ...]:
        """No linear layer: the experts lie in stacked parameters."""
        return ()

    @property
    def weights_per_entry(self) -> int:
        """The number of weights of an expert."""
        return self.size // self.mixture.units

    def sum_to_entries(self, values: Tensor) -> Tensor:
        """Refuse: a router's weight is not what an expert computes with."""
        raise TypeError(f"{self.name} ranks experts. Their weights are not those of the router.")

    def cost(self, length: int) -> Cost:
        """Return the cost of an expert.

        Its parameters include its row in the router. Its operations are those of its logit alone:
        each token goes to as many experts as before.
        """
        parameters = sum(p.numel() for p in self.parameters()) / self.mixture.units
        return Cost(parameters=parameters, flops=2 * self.layer.weight.shape[1])

    def contains(self, name: str) -> bool:
        """Return whether the layer of this name is part of the experts."""
        return name.startswith(f"{self.mixture.experts}.")
