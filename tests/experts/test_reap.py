"""REAP's score of experts: the mean of router weight times norm of the output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from hf_td import compact_model, patch_model, prune_model
from hf_td.pruning.routed_outputs import reap_scores
from hf_td.pruning.selection import sites_to_prune
from tests.experts.mixtures import (
    EXPERTS,
    ONLY,
    every_family,
    every_way,
    left_in,
    logits,
    mixture,
    router_of,
    routers_of,
)
from tests.families import family_inputs


def by_hand(layer: Any, hidden: Tensor) -> Tensor:
    """Return the scores of a layer token by token, for experts without biases."""
    experts, router = layer.mlp.experts, router_of(layer)
    _, weights, index = router(hidden)
    sums, tokens = torch.zeros(EXPERTS), torch.zeros(EXPERTS)
    for state, gates, chosen in zip(hidden, weights, index, strict=True):
        for gate, expert in zip(gates, chosen.tolist(), strict=True):
            first, second = (experts.gate_up_proj[expert] @ state).chunk(2)
            output = experts.down_proj[expert] @ (F.silu(first) * second)
            sums[expert] += gate * output.norm()
            tokens[expert] += 1
    return torch.where(tokens > 0, sums / tokens.clamp(min=1), 0)


def batches_of(model: Any, count: int = 2) -> list[dict[str, Any]]:
    inputs = family_inputs(model)
    return [{**inputs, "input_ids": inputs["input_ids"].roll(shift, 1)} for shift in range(count)]


def sites_of(model: Any) -> tuple[Any, ...]:
    return sites_to_prune(model, importance="magnitude", **ONLY)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
@torch.no_grad()
def test_a_score_is_the_mean_of_gate_times_norm(family):
    model = mixture(family)
    batches = batches_of(model)
    seen: list[list[Tensor]] = [[] for _ in model.model.layers]
    hooks = [
        layer.mlp.register_forward_pre_hook(
            lambda _, args, number=number: seen[number].append(args[0].flatten(0, -2))
        )
        for number, layer in enumerate(model.model.layers)
    ]
    for batch in batches:
        model(**batch)
    for hook in hooks:
        hook.remove()
    scores = reap_scores(model, sites_of(model), batches)
    for layer, site, hidden in zip(model.model.layers, sites_of(model), seen, strict=True):
        expected = by_hand(layer, torch.cat(hidden))
        assert_close(scores[site.name], expected, rtol=1e-5, atol=1e-6)
        assert (scores[site.name] > 0).any()


@every_way
@every_family
def test_every_implementation_of_experts_gives_the_same_scores(family, way):
    model, other = mixture(family), mixture(family)
    other.set_experts_implementation(way)
    batches = batches_of(model)
    expected = reap_scores(model, sites_of(model), batches)
    assert_close(reap_scores(other, sites_of(other), batches), expected, rtol=1e-4, atol=1e-6)


def test_an_expert_that_no_token_is_sent_to_goes_first():
    model = mixture("mixtral")
    with torch.no_grad():
        for router in routers_of(model):
            router.weight[3] = 0
            router.weight[3, 0] = 1e-9
            router.weight[:3] *= 50  # a large logit, of either sign, in one of three rows
    batches = batches_of(model)
    sites = sites_of(model)
    scores = reap_scores(model, sites, batches)
    assert all(0 in one.tolist() for one in scores.values())
    before = logits(model)
    prune_model(model, 1 / EXPERTS, importance="reap", calibration=batches, **ONLY)
    for site, kept in zip(sites, left_in(model), strict=True):
        (pruned,) = set(range(EXPERTS)) - set(kept)
        assert scores[site.name][pruned] == 0
    assert_close(logits(model), before)
    compact_model(model)
    assert_close(logits(model), before)


def test_the_lowest_go_and_a_pruned_model_is_scored_anew():
    model = mixture("qwen3_moe")
    batches = batches_of(model)
    scores = reap_scores(model, sites_of(model), batches)
    prune_model(model, 0.5, importance="reap", calibration=batches, **ONLY)
    expected = [sorted(scores[site.name].topk(4).indices.tolist()) for site in sites_of(model)]
    assert left_in(model) == expected
    prune_model(model, 0.5, importance="reap", calibration=batches, **ONLY)
    assert left_in(model) == expected


def test_what_it_needs_and_what_it_cannot_rank_is_said():
    model = mixture("mixtral")
    with pytest.raises(ValueError, match=r"'reap' measures experts.*calibration=\.\.\."):
        prune_model(model, 0.5, importance="reap", **ONLY)
    with pytest.raises(ValueError, match="there was none"):
        prune_model(model, 0.5, importance="reap", calibration=[], **ONLY)
    with pytest.raises(
        ValueError, match=r"ranks whole experts alone.*layers\.0\.self_attn.*_level"
    ):
        prune_model(model, 0.5, level="unit", importance="reap", calibration=batches_of(model))
    with pytest.raises(ValueError, match="'reap' can rank for pruning, but not while a model tra"):
        patch_model(model, importance="reap", **ONLY)
