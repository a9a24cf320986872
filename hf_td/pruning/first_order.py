"""Importance to first order: what the loss would change by, told by one gradient.

The loss without a weight w is about `-w * dL/dw` higher, without a unit the sum of that over all
that its consumer reads of it, which is the derivative by a factor of the unit (Michel et al., arXiv
1905.10650).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_td.anatomy.trace import evaluating, thawed
from hf_td.ranking.importance import unit_dim
from hf_td.ranking.sites import Site, UnitSite


def taylor_scores(
    model: nn.Module, sites: Sequence[Site], batches: Iterable[Mapping[str, Any]]
) -> dict[str, Tensor]:
    """By how much the loss would change, in either direction, without each weight or unit.

    The magnitude of the first-order term of each batch, summed over batches: of a sum over a unit's
    weights the magnitude is taken after the sum, as Molchanov et al. (arXiv 1906.10771) do.

    Args:
        model: which returns a loss for the batches.
        sites: what is ranked.
        batches: keyword arguments for `model`, labels included; training data, never what will be
            reported.

    Returns:
        By the name of the site, of the shape that it ranks; minus infinity for what is zero.

    Raises:
        ValueError: there is no batch, or no loss.
    """
    return _summed(model, sites, batches, Tensor.abs)


def movement_scores(
    model: nn.Module, sites: Sequence[Site], batches: Iterable[Mapping[str, Any]]
) -> dict[str, Tensor]:
    """How much higher the loss would be without each weight or unit, summed over batches.

    These are the scores of movement pruning (Sanh et al., arXiv 2005.07683) for weights that stay
    where they are. Arguments and errors as for `taylor_scores`.
    """
    return _summed(model, sites, batches, Tensor.neg)


def _summed(
    model: nn.Module, sites: Sequence[Site], batches: Iterable[Mapping[str, Any]], count: Any
) -> dict[str, Tensor]:
    weights = {id(s.layer.weight): s.layer.weight for s in sites}
    sums: dict[int, Tensor] = {}
    with evaluating(model), thawed(model), torch.enable_grad():
        for batch in batches:
            for index, term in _terms(model, sites, weights, batch).items():
                sums[index] = sums.get(index, 0) + count(term)
    if not sums:
        raise ValueError("calibration needs batches of training data; there was none")
    # Scores may be negative: what is gone already is below them all.
    sizes = _by_index((site, site.layer.weight.detach().abs()) for site in sites)
    scores = {i: total.masked_fill(sizes[i] == 0, -torch.inf) for i, total in sums.items()}
    return {site.name: scores[site.index] for site in sites}


def _terms(
    model: nn.Module, sites: Sequence[Site], weights: Mapping[int, Tensor], batch: Any
) -> dict[int, Tensor]:
    """The first-order terms of one batch by the number of the site; those of tied sites summed."""
    loss = getattr(model(**batch), "loss", None)
    if loss is None:
        raise ValueError(
            "importance to first order needs the loss: pass batches with labels as calibration=..."
        )
    found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    gradients = dict(zip(weights, found, strict=True))

    def product(site: Site) -> Tensor:
        weight, gradient = site.layer.weight.detach(), gradients[id(site.layer.weight)]
        return torch.zeros_like(weight) if gradient is None else weight * gradient

    return _by_index((site, product(site)) for site in sites)


def _by_index(values: Iterable[tuple[Site, Tensor]]) -> dict[int, Tensor]:
    """Values of the shape of the weights as what the sites rank, those of tied sites summed."""
    sums: dict[int, Tensor] = {}
    for site, value in values:
        sums[site.index] = sums.get(site.index, 0) + _by_rank(site, value.float())
    return sums


def _by_rank(site: Site, product: Tensor) -> Tensor:
    """From the shape of the weight to what the site ranks."""
    if not isinstance(site, UnitSite):
        return product
    channels = product.sum(unit_dim(site.layer))
    return channels[..., site.block.consumer.features.to(product.device)].sum(-1)
