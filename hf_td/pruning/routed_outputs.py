"""Ranks experts by what they add to the tokens that the router sends them (REAP).

The score of an expert is the mean, over these tokens, of its router weight times the norm of its
output (Lasby et al., arXiv 2510.13999).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hf_td.anatomy.trace import evaluating
from hf_td.modules.routing import chosen_experts
from hf_td.ranking.batches import run_batch
from hf_td.ranking.sites.experts import ExpertSite


@torch.no_grad()
def reap_scores(
    model: nn.Module, sites: Sequence[ExpertSite], batches: Iterable[Mapping[str, Any]]
) -> dict[str, Tensor]:
    """Score each expert by the mean norm of what it adds to a token that is sent to it.

    Experts are run once more for each expert of a token, so a batch takes about as long as two.

    Args:
        model: any model; its mode is restored afterwards.
        sites: the mixtures.
        batches: keyword arguments for `model`: training data, never data of a reported metric.

    Returns:
        By the name of the site, `(experts,)`, float32; 0 for an expert that no token is sent to.

    Raises:
        ValueError: there is no batch.
    """
    sums = {site.name: torch.zeros(2, site.mixture.units) for site in sites}

    def add(name: str, experts: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sums[name] += _norms_and_tokens(experts, args, kwargs, sums[name].shape[1]).cpu()

    hooks = [
        model.get_submodule(site.mixture.experts).register_forward_pre_hook(
            partial(add, site.name), with_kwargs=True
        )
        for site in sites
    ]
    try:
        with evaluating(model):
            for batch in batches:
                run_batch(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    if not any(tokens.any() for _, tokens in sums.values()):
        raise ValueError("calibration needs batches of training data; there was none")
    return {name: norms / tokens.clamp(min=1) for name, (norms, tokens) in sums.items()}


def _norms_and_tokens(
    experts: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], units: int
) -> Tensor:
    """Return the sum of norms of each expert's weighted outputs, and its tokens, `(2, experts)`.

    Args:
        experts: the module of experts.
        args: that it is called with: hidden states, and the indices and weights of the chosen.
        kwargs: further ones.
        units: number of experts.
    """
    found = chosen_experts([*args, *kwargs.values()])
    assert found is not None, (
        "the reading has proven that the experts are given the router's choice"
    )
    index = found[1]
    # Some routers send tokens that count for nothing to one expert more than there are.
    sums = torch.zeros(2, units + 1, device=index.device)
    for place in range(index.shape[1]):
        one = {id(tensor): tensor[:, place : place + 1] for tensor in found}
        output = experts.forward(
            *(one.get(id(value), value) for value in args),
            **{name: one.get(id(value), value) for name, value in kwargs.items()},
        )
        norms = torch.linalg.vector_norm(output.flatten(0, -2).float(), dim=-1)
        sums[0].index_add_(0, index[:, place], norms)
        sums[1].index_add_(0, index[:, place], torch.ones_like(norms))
    return sums[:, :units]
