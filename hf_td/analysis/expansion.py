"""Expands a loss around its parameters to second order, term by term."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Terms:
    """The second-order terms of E(theta - d) for one group; terms of groups or batches add up.

    Attributes:
        linear: -g.d of the group.
        within: 1/2 d.Hd of the group alone, its diagonal block.
        between: the rest of the group's rows of 1/2 d.Hd: half of its cross terms with d elsewhere.
        kept: (theta - d).Hd over the group's rows: the cross terms of the group's kept weights with
            all of d.
    """

    linear: float = 0.0
    within: float = 0.0
    between: float = 0.0
    kept: float = 0.0

    @property
    def curvature(self) -> float:
        """The group's rows of 1/2 d.Hd."""
        return self.within + self.between

    def __add__(self, other: Terms) -> Terms:
        return Terms(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, factor: float) -> Terms:
        return Terms(*(factor * term for term in astuple(self)))


def expand(
    loss: Callable[[], Tensor],
    parameters: Mapping[str, Tensor],
    steps: Mapping[str, Tensor],
    groups: Mapping[str, Sequence[str]],
) -> dict[str, Terms]:
    """Return the terms of a loss for a step -d, by one gradient and Hessian-vector products.

    Args:
        loss: computes the loss, a scalar that can be differentiated twice.
        parameters: by name; each requires a gradient.
        steps: d, by the names of the parameters and of their shapes.
        groups: from the name of a group to the names of its parameters; each is in one group.

    Returns:
        The terms of each group. Linear terms and curvatures add up to the prediction.
    """
    names = list(parameters)
    with torch.enable_grad():
        found = torch.autograd.grad(
            loss(), [parameters[n] for n in names], create_graph=True, materialize_grads=True
        )
        gradients = dict(zip(names, found, strict=True))
        products = _product(gradients, parameters, steps, names)
        own = {
            name: _product(gradients, parameters, steps, members)
            for name, members in groups.items()
        }
    kept = {name: parameters[name].detach() - steps[name] for name in names}
    terms = {}
    for group, members in groups.items():
        rows = 0.5 * _dot(products, steps, members)
        within = 0.5 * _dot(own[group], steps, members)
        terms[group] = Terms(
            linear=-_dot(gradients, steps, members),
            within=within,
            between=rows - within,
            kept=_dot(products, kept, members),
        )
    return terms


def _product(
    gradients: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    steps: Mapping[str, Tensor],
    names: Sequence[str],
) -> dict[str, Tensor]:
    """Return the rows `names` of the product of the Hessian with the step in `names`."""
    along = torch.stack([(gradients[n] * steps[n]).sum() for n in names]).sum()
    found = torch.autograd.grad(
        along, [parameters[n] for n in names], retain_graph=True, materialize_grads=True
    )
    return dict(zip(names, found, strict=True))


def _dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor], names: Sequence[str]) -> float:
    return sum(float((a[n].detach().double() * b[n].double()).sum()) for n in names)
