"""Sites of whole experts, ranked inside each mixture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hf_td import functional, kernels
from hf_td.anatomy import Mixture
from hf_td.functional import Rule
from hf_td.modules.routing import mark_pruned, pruned_experts
from hf_td.ranking import importance
from hf_td.ranking.activations import Activations
from hf_td.ranking.sites.site import Cost, Kind
from hf_td.ranking.sites.slices import Slice, clear


@dataclass(frozen=True, eq=False)
class ExpertSite:
    """The experts of a mixture. A dropped expert is one that the router does not choose.

    Attributes:
        name: dotted name of the router.
        layer: the router.
        index: the number of the site in its model, which keys its draws.
        mixture: the reading of the experts and their router.
        places: pairs of a module and the name of its parameter with an entry for each expert.
        activations: scale the scores; None for plain norms.
        given: scores from elsewhere, in place of those computed from the weights.
        random_key: of fixed random scores, in place of those computed from the weights.
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
        """The number of weights that the mask covers: all weights of the experts."""
        return sum(weight.numel() for weight in self.weights)

    @property
    def most(self) -> float:
        """The largest fraction that can be given; `eligible` keeps the experts of one token."""
        return 1.0

    def eligible(self, scores: Tensor) -> Tensor:
        """Return the scores with infinity at the highest, as many as each token is routed to."""
        return scores.index_fill(0, scores.topk(self.mixture.chosen).indices, torch.inf)

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """The 3-D parameters of the experts."""
        return tuple(parameter for parameter in self.parameters() if parameter.dim() == 3)

    @property
    def rule(self) -> Rule:
        """The rule of the router's cut-offs: one for each expert, in the first dimension."""
        return Rule(0)

    @property
    def ranked_shape(self) -> tuple[int, ...]:
        """The shape of the scores: `(experts,)`."""
        return (self.mixture.units,)

    def scores(self, *, wide: bool = False) -> Tensor:
        """Return the L2 norm of each expert's weights, `(experts,)`; minus infinity if pruned.

        Activations scale it by the root mean square of the weight that the router gives the
        expert.
        """
        if self.given is not None:
            scores = self.given
        elif self.random_key is not None:
            device = self.layer.weight.device
            scores = functional.random_scores(self.ranked_shape, self.random_key, device)
        else:
            scores = importance.expert_scores(self.weights, self.scale(), wide=wide)
        pruned = kernels.whole(pruned_experts(self.layer.module))
        return scores.masked_fill(pruned, -torch.inf)

    def scale(self) -> Tensor | None:
        """Return the root mean square of the router's weight of each expert, `(experts,)`."""
        if self.activations is None:
            return None
        scale = self.activations.scale(self.name, self.mixture.units)
        return None if scale is None else scale.to(self.layer.weight.device)

    def to_weight(self, mask: Tensor) -> Tensor:
        """Return the mask: a router's cut-offs have the shape `(experts,)`."""
        return mask

    def parameters(self) -> Iterator[Tensor]:
        """Yield the tensors that `remove` writes to."""
        yield from (module.get_parameter(name).data for module, name in self.places)

    def slices(self, chosen: Tensor) -> Iterator[Slice]:
        """Yield the entries of the chosen experts in each parameter."""
        for module, name in self.places:
            parameter = module.get_parameter(name)
            yield parameter, chosen.view(-1, *[1] * (parameter.dim() - 1)).to(parameter.device)

    def remove(self, chosen: Tensor) -> None:
        """Set the weights of the chosen experts to zero, and make the router leave them out."""
        clear(self.slices(chosen))
        self.mark_removed()

    def mark_removed(self) -> None:
        """Make the router leave out exactly the experts whose rows are zero."""
        mark_pruned(self.layer.module)

    @property
    def producers(self) -> tuple[Any, ...]:
        """Empty: the experts are stacked parameters, not linear layers."""
        return ()

    @property
    def weights_per_entry(self) -> int:
        """The number of weights of an expert."""
        return self.size // self.mixture.units

    def sum_to_entries(self, values: Tensor) -> Tensor:
        """Raise TypeError: an expert computes with other weights than the router's."""
        raise TypeError(f"{self.name} ranks experts. Their weights are not those of the router.")

    def cost(self, length: int) -> Cost:
        """Return the cost of an expert.

        The parameters include the expert's row in the router. The operations are those of its
        logit alone, since each token still goes to as many experts.
        """
        parameters = sum(p.numel() for p in self.parameters()) / self.mixture.units
        return Cost(parameters=parameters, flops=2 * self.layer.weight.shape[1])

    def contains(self, name: str) -> bool:
        """Return True for the name of a layer inside the experts."""
        return name.startswith(f"{self.mixture.experts}.")
