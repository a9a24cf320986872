"""The report, against counts made by hand."""

from __future__ import annotations

import json

import pytest

from hf_td import PruningReport, prune_model, read_anatomy
from hf_td.pruning import BlockSparsity, LayerSparsity, count_sparsity
from tests.patching.models import tiny_albert
from tests.tiny import FAMILIES, tiny_model

# Prunable weights of each family: layers * (attention + feed-forward).
PRUNABLE = {
    "bert": 2 * (4 * 32 * 32 + 2 * 32 * 64),
    "roberta": 2 * (4 * 32 * 32 + 2 * 32 * 64),
    "distilbert": 2 * (4 * 32 * 32 + 2 * 32 * 64),
    "gpt2": 2 * (4 * 32 * 32 + 2 * 32 * 128),
    "llama": 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64),
    "t5": 2 * (3 * 4 * 32 * 32 + 2 * 2 * 32 * 64),
    "t5_gated": 2 * (3 * 4 * 32 * 32 + 2 * 3 * 32 * 64),
    "vit": 2 * (4 * 32 * 32 + 2 * 32 * 64),
}
every_level = pytest.mark.parametrize("level", ["weight", "unit"])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 1.0])
@every_level
def test_totals_are_those_counted_by_hand(family, sparsity, level):
    model = tiny_model(family)
    report = prune_model(model, sparsity, level=level)
    assert report.prunable == PRUNABLE[family]
    assert report.removed == sparsity * PRUNABLE[family]
    assert report.sparsity == sparsity
    assert report.parameters == sum(p.numel() for p in model.parameters())
    assert report.share_of_parameters == pytest.approx(report.removed / report.parameters)


def test_units_of_grouped_heads_are_rounded_down():
    report = prune_model(tiny_model("llama"), 0.75, level="unit")
    counts = [(block.part, block.removed, block.total) for block in report.blocks]
    assert counts == [("attention", 1, 2), ("feed_forward", 48, 64)] * 2
    attention = 16 * 32 + 2 * 8 * 32 + 32 * 16  # q, k and v, o
    assert report.removed == 2 * (attention + 3 * 48 * 32)


def test_layers_and_blocks_are_listed_with_their_counts():
    report = prune_model(tiny_model("bert"), 0.5, level="unit", exclude=["*.attention.*"])
    layer = {entry.name: entry for entry in report.layers}
    assert len(layer) == 12
    up = layer["bert.encoder.layer.0.intermediate.dense"]
    assert (up.removed, up.kept, up.total, up.sparsity) == (1024, 1024, 2048, 0.5)
    query = layer["bert.encoder.layer.0.attention.self.query"]
    assert (query.removed, query.kept, query.total, query.sparsity) == (0, 1024, 1024, 0.0)
    names = [(block.name, block.part, block.removed, block.total) for block in report.blocks]
    assert names == [
        (f"bert.encoder.layer.{i}{name}", part, removed, total)
        for i in (0, 1)
        for name, part, removed, total in [
            (".attention", "attention", 0, 4),
            ("", "feed_forward", 32, 64),
        ]
    ]


def test_weight_pruning_removes_no_whole_units():
    report = prune_model(tiny_model("bert"), 0.5, level="weight")
    assert all(block.removed == 0 for block in report.blocks)


def test_what_was_zero_before_is_counted():
    model = tiny_model("bert")
    blocks = read_anatomy(model).blocks
    assert count_sparsity(model, blocks).removed == 0
    model.get_parameter("bert.encoder.layer.0.output.dense.weight").data[:, :3] = 0
    report = count_sparsity(model, blocks)
    assert report.removed == 3 * 32
    assert [block.removed for block in report.blocks] == [0, 3, 0, 0]


def test_a_shared_layer_is_counted_once():
    report = prune_model(tiny_albert(), 0.5)
    assert report.prunable == 4 * 32 * 32 + 2 * 32 * 64
    assert report.sparsity == 0.5


def small_report() -> PruningReport:
    return PruningReport(
        layers=(LayerSparsity("a.q", 300, 1200), LayerSparsity("a.o", 0, 800)),
        blocks=(BlockSparsity("a", "attention", 1, 4),),
        parameters=12_000,
    )


def test_totals_follow_from_the_layers():
    report = small_report()
    assert (report.removed, report.prunable) == (300, 2000)
    assert (report.sparsity, report.share_of_parameters) == (0.15, 0.025)


def test_the_text_has_a_line_for_each_layer_and_the_totals():
    text = str(small_report())
    lines = {line.split()[1]: line for line in text.splitlines() if " a." in line}
    assert set(lines) == {"a.q", "a.o"}
    assert all(part in lines["a.q"] for part in ("300", "900", "25.0%"))
    words = " ".join(text.split())
    assert "15.0% of 2,000 prunable weights removed, 2.5% of all 12,000 parameters" in words


@pytest.mark.parametrize("family", FAMILIES)
def test_the_text_names_every_layer_in_full(family):
    report = prune_model(tiny_model(family), 0.5)
    text = str(report)
    assert all(layer.name in text for layer in report.layers)
    assert f"50.0% of {PRUNABLE[family]:,} prunable weights removed" in " ".join(text.split())
    assert "\x1b" not in text


def test_the_json_form_has_the_totals():
    values = json.loads(json.dumps(small_report().to_dict()))
    assert values == {
        "layers": [
            {"name": "a.q", "removed": 300, "total": 1200},
            {"name": "a.o", "removed": 0, "total": 800},
        ],
        "blocks": [{"name": "a", "part": "attention", "removed": 1, "total": 4}],
        "parameters": 12_000,
        "removed": 300,
        "prunable": 2000,
        "sparsity": 0.15,
        "share_of_parameters": 0.025,
    }
