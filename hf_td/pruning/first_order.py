"""Ranks by importance to first order: the change of the loss that one gradient predicts.

Without a weight w the loss is about `-w * dL/dw` higher. For a unit the terms of all weights that
its consumer reads of it add up, which gives the derivative by a factor of the unit (Michel et al.,
arXiv 1905.10650).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_td.anatomy.trace import evaluating, thawed
from hf_td.ranking.batches import run_batch
from hf_td.ranking.sites import Site


def taylor_scores(
    model: nn.Module, sites: Sequence[Site], batches: Iterable[Mapping[str, Any]]
) -> dict[str, Tensor]:
    """Score each weight or unit by how much the loss would change without it, in either direction.

    A score sums the magnitudes of the first-order terms over batches. For a unit the magnitude is
    taken after the sum over its weights, as Molchanov et al. (arXiv 1906.10771) do.

    Args:
        model: returns a loss for the batches.
        sites: what is ranked.
        batches: keyword arguments for `model`, labels included; training data, never the data that
            results are reported on.

    Returns:
        By the name of the site, scores of the shape that it ranks; minus infinity at zeros.

    Raises:
        ValueError: there is no batch, or no loss.
    """
    return _summed(model, sites, batches, Tensor.abs)


def movement_scores(
    model: nn.Module, sites: Sequence[Site], batches: Iterable[Mapping[str, Any]]
) -> dict[str, Tensor]:
    """Score each weight or unit by how much higher the loss would be without it.

    A score sums over batches. These are the scores of movement pruning (Sanh et al., arXiv
    2005.07683) for weights that do not move. Arguments and errors as for `taylor_scores`.
    """
    return _summed(model, sites, batches, Tensor.neg)


def _summed(
    model: nn.Module,
    sites: Sequence[Site],
    batches: Iterable[Mapping[str, Any]],
    transform: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    weights = {id(s.layer.weight): s.layer.weight for s in sites}
    sums: dict[int, Tensor] = {}
    with evaluating(model), thawed(model), torch.enable_grad():
        for batch in batches:
            for index, term in _terms(model, sites, weights, batch).items():
                sums[index] = sums.get(index, 0) + transform(term)
    if not sums:
        raise ValueError("calibration needs batches of training data; there was none")
    # Scores may be negative: only minus infinity puts zeros below all of them.
    sizes = _by_index((site, site.layer.weight.detach().abs()) for site in sites)
    scores = {i: total.masked_fill(sizes[i] == 0, -torch.inf) for i, total in sums.items()}
    return {site.name: scores[site.index] for site in sites}


def _terms(
    model: nn.Module, sites: Sequence[Site], weights: Mapping[int, Tensor], batch: Any
) -> dict[int, Tensor]:
    """Return the first-order terms of one batch by the index of the site."""
    loss = getattr(run_batch(model, batch), "loss", None)
    if loss is None:
        raise ValueError(
            "importance to first order needs the loss. Pass batches with labels as calibration=..."
        )
    found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    gradients = dict(zip(weights, found, strict=True))

    def product(site: Site) -> Tensor:
        weight, gradient = site.layer.weight.detach(), gradients[id(site.layer.weight)]
        if gradient is None:
            return torch.zeros_like(weight)
        return weight.float() * gradient.float()  # float16 would make most products zero

    return _by_index((site, product(site)) for site in sites)


def _by_index(values: Iterable[tuple[Site, Tensor]]) -> dict[int, Tensor]:
    """Sum values of the shape of the weights to what the sites rank; tied sites are added up."""
    sums: dict[int, Tensor] = {}
    for site, value in values:
        sums[site.index] = sums.get(site.index, 0) + site.sum_to_entries(value.float())
    return sums
