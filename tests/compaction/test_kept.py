"""Live units are found and stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hf_td import compact_model, prune_model, read_anatomy
from hf_td.compaction.kept import choose_units, live_units, needed_units
from tests.compaction.models import (
    assert_same,
    block_named,
    computed,
    every_family,
    masked_model,
    units_of,
)
from tests.tiny import tiny_model

ATTENTION = "bert.encoder.layer.0.attention"
FEED_FORWARD = "bert.encoder.layer.0"


@every_family
def test_a_stock_model_is_all_alive(family):
    model = tiny_model(family)
    for block in read_anatomy(model).blocks:
        assert live_units(model, block).shape == (block.units,)
        assert live_units(model, block).all()


@every_family
def test_every_unit_that_was_pruned_is_dead(family):
    model = masked_model(family)
    for block in read_anatomy(model).blocks:
        assert int(live_units(model, block).sum()) == block.units // 2


@torch.no_grad()
def test_a_head_without_queries_and_keys_still_averages_its_values():
    model: Any = tiny_model("bert")
    attention = model.bert.encoder.layer[0].attention.self
    for layer in (attention.query, attention.key):
        layer.weight[:8] = 0
        layer.bias[:8] = 0
    assert live_units(model, block_named(model, ATTENTION)).tolist() == [True] * 4
    with pytest.raises(ValueError, match="no unit of BertForSequenceClassification"):
        compact_model(model)


@torch.no_grad()
def test_a_head_without_values_still_passes_their_bias_on():
    model: Any = tiny_model("bert")
    model.bert.encoder.layer[0].attention.self.value.weight[:8] = 0
    assert live_units(model, block_named(model, ATTENTION)).all()


@torch.no_grad()
def test_a_neuron_without_weights_still_passes_its_bias_on():
    model: Any = tiny_model("bert")
    layer = model.bert.encoder.layer[0]
    layer.intermediate.dense.weight[:8] = 0
    layer.output.dense.weight[:, 8:16] = 0  # else nothing could be taken out
    expected = computed(model)
    compact_model(model)
    assert layer.intermediate.dense.weight.shape == (56, 32)
    assert not layer.intermediate.dense.weight[:8].any()
    assert_same(model, expected)


@torch.no_grad()
def test_one_column_keeps_a_head_alive():
    model: Any = masked_model("bert")
    dense = model.bert.encoder.layer[0].attention.output.dense
    dead = [h for h in range(4) if not dense.weight[:, 8 * h : 8 * h + 8].any()]
    dense.weight[3, 8 * dead[0] + 5] = 1e-30
    live = live_units(model, block_named(model, ATTENTION))
    assert live.sum() == 3
    assert live[dead[0]]


@torch.no_grad()
def test_a_head_that_one_tied_layer_reads_stays_in_all():
    model: Any = masked_model("t5")
    second = model.encoder.block[1].layer[0].SelfAttention
    dead = [h for h in range(4) if not second.o.weight[:, 8 * h : 8 * h + 8].any()]
    second.o.weight[:, 8 * dead[0]] = 1
    expected = computed(model)
    compact_model(model)
    found = units_of(model)
    assert found["encoder.block.0.layer.0.SelfAttention"] == 3
    assert found["encoder.block.1.layer.0.SelfAttention"] == 3
    assert found["decoder.block.0.layer.0.SelfAttention"] == 2
    assert_same(model, expected)


@pytest.mark.parametrize(
    ("sparsity", "multiple", "neurons"),
    [
        (0.7, 1, 20),
        (0.7, 8, 24),
        (0.7, 64, 64),
        (0.7, 1000, 64),
        (0.7, 40, 40),
        (0.2, 48, 64),
        (1, 1, 1),
        (1, 16, 16),
        (0, 8, 64),
    ],
)
def test_widths_are_rounded_up_and_at_least_one_unit_stays(sparsity, multiple, neurons):
    model = tiny_model("bert")
    prune_model(model, sparsity, level="unit")
    needed = needed_units(model, read_anatomy(model), multiple)
    widths = {block.part: count for block, count in needed.items()}
    assert widths["feed_forward"] == neurons
    assert widths["attention"] == max(1, 4 - int(4 * sparsity))


def test_live_units_are_kept_before_dead_ones_in_their_order():
    model = tiny_model("bert")
    prune_model(model, 0.5, level="unit")
    block = block_named(model, FEED_FORWARD)
    live = live_units(model, block)
    (kept,) = choose_units(model, read_anatomy(model), {block: 40}).values()
    assert kept.tolist() == sorted(kept.tolist())
    assert set(live.nonzero().flatten().tolist()) < set(kept.tolist())
    assert len(kept) == 40
