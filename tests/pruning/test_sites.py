"""The members that all kinds of sites share, against counts made by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from hf_td import TargetedDropoutConfig, read_anatomy
from hf_td.ranking.sites import Site, plan_sites, tied_groups
from tests.families import tiny_family
from tests.tiny import tiny_model

HEADS = "bert.encoder.layer.0.attention.output.dense"
DOWN = "bert.encoder.layer.0.output.dense"


def sites_of(model: Any, level: Any, **settings: Any) -> dict[str, Site]:
    """Return the sites of a model by name."""
    config = TargetedDropoutConfig(level=level, importance="magnitude", **settings)
    return {site.name: site for site in plan_sites(model, read_anatomy(model), config)}


def test_a_weight_costs_one_of_everything():
    site = sites_of(tiny_model("bert"), "weight")[DOWN]
    assert site.kind == "weight"
    assert (site.weights_per_entry, site.cost(128)) == (1, (1, 1, 1))
    assert site.producers == (site.layer,)
    assert site.sum_to_entries(site.layer.weight) is site.layer.weight


@pytest.mark.parametrize(
    ("name", "weights", "parameters", "mixing"),
    [
        # Eight rows of query, key and value with biases, eight columns of the output.
        (HEADS, 3 * 8 * 32, 3 * 8 * 33 + 8 * 32, 4 * 100 * 8),
        # A row with its bias, and a column.
        (DOWN, 32, 33 + 32, 0),
    ],
)
def test_a_unit_costs_what_belongs_to_it(name, weights, parameters, mixing):
    model = tiny_model("bert")
    site = sites_of(model, "unit")[name]
    assert site.kind == "unit"
    assert site.weights_per_entry == weights
    assert site.cost(100) == (1, parameters, 2 * parameters + mixing)
    assert site.cost(0).flops == 2 * parameters
    removed = torch.zeros_like(site.scores(), dtype=torch.bool)
    removed[0] = True
    site.remove(removed)
    zeros = [int((parameter == 0).sum()) for parameter in site.parameters()]
    assert sum(zeros) == parameters


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_values_are_summed_over_what_the_consumer_reads_of_a_unit(family):
    for site in sites_of(tiny_model(family), "unit").values():
        values = torch.randn_like(site.layer.weight)
        found = site.sum_to_entries(values)
        assert found.shape == site.scores().shape
        for unit in range(len(found)):
            chosen = torch.zeros(len(found), dtype=torch.bool).index_fill(0, torch.tensor(unit), 1)
            assert_close(found[unit], (values * site.to_weight(chosen)).sum())


def test_an_expert_costs_its_weights_and_its_row_in_the_router():
    model = tiny_family("mixtral")
    sites = sites_of(model, "weight", experts_level="unit")
    (site,) = [s for s in sites.values() if s.kind == "expert" and ".0." in s.name]
    experts, width = site.layer.weight.shape
    assert site.weights_per_entry == site.size / experts
    assert site.cost(128) == (1, site.weights_per_entry + width, 2 * width)
    inside = [s for s in sites.values() if site.contains(s.name)]
    assert inside
    assert all(s.kind == "weight" and ".experts." in s.name for s in inside)
    assert not any(other.contains(site.name) for other in sites.values())
    with pytest.raises(TypeError, match="ranks experts"):
        site.sum_to_entries(site.layer.weight)


def test_tied_sites_are_one_group():
    model = tiny_model("t5")
    groups = tied_groups(sites_of(model, "unit", feed_forward_level="none").values())
    assert [len(group) for group in groups.values()] == [2, 2, 1, 1]
    assert all(site.index == index for index, group in groups.items() for site in group)
