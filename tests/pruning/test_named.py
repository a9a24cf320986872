"""Each part by its own sparsity, and units by their numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from hf_td import compact_model, prune_model, prune_units, read_anatomy
from tests.deep import deep_family
from tests.tiny import FAMILIES, tiny_inputs, tiny_model


def removed(report: Any) -> dict[str, tuple[int, int]]:
    return {block.name: (block.removed, block.total) for block in report.blocks}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_part_has_its_own_sparsity(family):
    model = tiny_model(family)
    report = prune_model(model, {"attention": 0.5, "feed_forward": 0.25}, level="unit")
    for block in report.blocks:
        share = {"attention": 0.5, "feed_forward": 0.25}[block.part]
        assert block.removed == share * block.total


@pytest.mark.parametrize("family", FAMILIES)
def test_a_part_can_lose_a_number_of_units(family):
    model = tiny_model(family)
    report = prune_model(model, {"attention": 1, "feed_forward": 5}, level="unit")
    assert {(b.part, b.removed) for b in report.blocks} == {("attention", 1), ("feed_forward", 5)}


def test_a_mapping_that_names_layers_ranks_them():
    model: Any = deep_family("llama")
    report = prune_model(model, {"feed_forward": 0.5, "layers": 1}, level="unit")
    assert removed(report)["model.layers"] == (1, 4)
    compact_model(model)
    assert model.config.num_hidden_layers == 3


def test_a_part_that_is_not_named_stays_whole():
    model = tiny_model("bert")
    report = prune_model(model, {"feed_forward": 0.5}, level="weight")
    by_layer = {layer.name: layer.sparsity for layer in report.layers}
    assert {share for name, share in by_layer.items() if "attention.self" in name} == {0}
    assert {share for name, share in by_layer.items() if "intermediate" in name} == {0.5}


def test_a_global_budget_is_spent_inside_each_part():
    model = tiny_model("bert")
    wanted = {"attention": 0.25, "feed_forward": 0.5}
    report = prune_model(model, wanted, level="unit", budget="global")
    for part, share in wanted.items():
        blocks = [block for block in report.blocks if block.part == part]
        assert sum(b.removed for b in blocks) == share * sum(b.total for b in blocks)


@pytest.mark.parametrize(
    ("sparsity", "message"),
    [
        ({"heads": 0.5}, "names heads, but what is ranked here is attention, feed_forward"),
        ({"experts": 0.5}, "names experts"),
        ({"attention": 1.5}, r"in \[0, 1\]"),
        ({"attention": 5}, r"dense has 4 units, and 0 have to stay, so 5 of them cannot be"),
        ({"layers": 2}, r"layer has 2 units, and 1 have to stay, so 2 of them cannot be removed"),
        ({"attention": -1}, r"attention is to lose a number of units, at least 0; got -1"),
    ],
)
def test_a_wrong_sparsity_of_a_part_changes_nothing(sparsity, message):
    model, other = tiny_model("bert"), tiny_model("bert")
    with pytest.raises(ValueError, match=message):
        prune_model(model, sparsity, level="unit")
    assert all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))


def test_a_number_of_single_weights_is_refused():
    with pytest.raises(ValueError, match=r"3 is a number of units, and .* ranks single weights"):
        prune_model(tiny_model("bert"), {"attention": 3}, level="weight")


@pytest.mark.parametrize("sparsity", [True, {"attention": True}, {"feed_forward": False}])
def test_a_bool_is_no_sparsity(sparsity):
    with pytest.raises(TypeError, match="sparsity is a number"):
        prune_model(tiny_model("bert"), sparsity, level="unit")


@pytest.mark.parametrize(
    "units",
    [
        {"heads": {0: [1.5]}},
        {"heads": {0: [True]}},
        {"heads": {0: 1}},
        {"heads": [0, 1]},
        {"neurons": {0: ["a"]}},
        {"layers": [1.5]},
        {"layers": [True]},
        {"layers": 1},
    ],
    ids=str,
)
def test_units_that_are_no_numbers_are_refused(units):
    model, other = tiny_model("bert"), tiny_model("bert")
    with pytest.raises(TypeError, match="such as"):
        prune_units(model, units)
    assert all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))


def test_blocks_can_be_numbered_as_in_json():
    by_text, by_number = tiny_model("bert"), tiny_model("bert")
    prune_units(by_text, {"heads": {"1": [0]}})
    prune_units(by_number, {"heads": {1: [0]}})
    pairs = zip(by_text.state_dict().values(), by_number.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("family", FAMILIES)
def test_named_units_are_pruned_and_can_be_taken_out(family):
    model = tiny_model(family)
    attention = [b for b in read_anatomy(model).blocks if b.part == "attention"]
    heads = 1 if attention[0].units == 2 else 2
    report = prune_units(model, {"heads": {0: range(heads)}, "neurons": {1: [0, 7, 63]}})
    found = {name: gone for name, (gone, _) in removed(report).items() if gone}
    assert sorted(found.values())[-1] == 3
    assert found[attention[0].name] == heads
    with torch.no_grad():
        expected = model(**tiny_inputs(model)).logits
        assert_close(compact_model(model)(**tiny_inputs(model)).logits, expected)


def test_named_units_are_those_and_blocks_have_names():
    model: Any = tiny_model("bert")
    block = read_anatomy(model).blocks[1]
    prune_units(model, {"neurons": {block.name: [3]}})
    up = model.bert.encoder.layer[0].intermediate.dense.weight
    assert (up == 0).all(1).nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ({"head": {0: [1]}}, "units are heads, neurons or layers, got 'head'"),
        ({"heads": {2: [1]}}, "there is no block 2 with heads"),
        ({"heads": {0: [4]}}, "has the units 0 to 3, so 4 cannot be pruned"),
        ({"heads": {0: [-1]}}, "so -1 cannot be pruned"),
    ],
)
def test_units_that_do_not_exist_are_refused(units, message):
    model, other = tiny_model("bert"), tiny_model("bert")
    with pytest.raises(ValueError, match=message):
        prune_units(model, units)
    assert all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))


def test_units_that_are_no_mapping_are_refused():
    with pytest.raises(TypeError, match=r"units are a mapping .*'heads': .* got \[1, 2\]"):
        prune_units(tiny_model("bert"), [1, 2])  # pyright: ignore
