"""Tables of times: measured, kept, and spent by a global budget."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from hf_td import Times, measure_times, prune_model, read_anatomy
from hf_td.anatomy.blocks import pattern_of
from hf_td.pruning import Budget, Curve
from tests.tiny import FAMILIES, tiny_inputs, tiny_model


def table(model: Any, attention: float, feed_forward: float) -> Times:
    """A table in which a whole block takes so many milliseconds, in proportion to its units."""
    whole = {"attention": attention, "feed_forward": feed_forward}
    kinds: dict[Any, list[Any]] = {}
    for block in read_anatomy(model).blocks:
        kinds.setdefault((pattern_of(block.name), block.part, block.units), []).append(block)
    curves = tuple(
        Curve(
            block=name,
            part=part,
            units=units,
            blocks=len(blocks),
            counts=(1, units),
            milliseconds=(0.0, whole[part]),
        )
        for (name, part, units), blocks in kinds.items()
    )
    total = 1 + sum(curve.whole * curve.blocks for curve in curves)
    return Times(
        whole=total,
        curves=curves,
        shape=(1, 8),
        dtype="float32",
        device="cpu",
        threads=1,
        hardware="a table of a test",
    )


def removed(report: Any, part: str) -> int:
    return sum(block.removed for block in report.blocks if block.part == part)


def test_a_curve_is_interpolated_and_flat_below_the_fewest():
    curve = Curve(
        block="a",
        part="attention",
        units=6,
        blocks=1,
        counts=(2, 4, 6),
        milliseconds=(0.0, 1.0, 4.0),
    )
    assert_close(curve.by_count(), torch.tensor([0, 0, 0, 0.5, 1, 2.5, 4]).double())
    assert curve.whole == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_measured_and_left_as_it_was(family, tmp_path):
    model = tiny_model(family)
    with torch.no_grad():
        before = model(**tiny_inputs(model)).logits
    times = measure_times(model, batch=2, length=16, threads=1, points=2, rounds=1)
    with torch.no_grad():
        assert torch.equal(model(**tiny_inputs(model)).logits, before)
    assert {curve.part for curve in times.curves} == {"attention", "feed_forward"}
    for block in read_anatomy(model).blocks:
        curve = times.curve_of(block)
        assert curve.counts[-1] == block.units
        assert min(curve.by_count().diff()) >= 0
    assert times.shape[0] == 2
    assert times.hardware
    assert_close(times.rest + sum(c.whole * c.blocks for c in times.curves), times.whole)
    times.save(tmp_path / "times.json")
    assert Times.load(tmp_path / "times.json") == times
    report = prune_model(model, 0.5, level="unit", budget="global", of="latency", times=times)
    assert report.sparsity >= 0


def test_a_forward_is_estimated_from_the_counts():
    model = tiny_model("bert")
    times = table(model, attention=3, feed_forward=63)
    heads, neurons = read_anatomy(model).blocks[:2]
    assert times.forward([]) == times.whole
    assert times.forward([(heads, 2), (neurons, 32)]) == pytest.approx(times.whole - 2 - 32)


def test_units_of_slow_blocks_go_first():
    """Equal scores everywhere: only the times decide."""
    for slow, fast in (("attention", "feed_forward"), ("feed_forward", "attention")):
        model = tiny_model("bert")
        times = table(model, **{slow: 63.0, fast: 3.0})
        sites = {n: torch.ones(s) for n, s in _shapes(model).items()}
        report = prune_model(
            model, 0.3, level="unit", budget="global", of="latency", times=times, scores=sites
        )
        assert removed(report, slow) > 0
        assert removed(report, fast) == 0


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    return {block.consumer.module: (block.units,) for block in read_anatomy(model).blocks}


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.75])
def test_the_saved_time_is_the_wanted_share(sparsity):
    model = tiny_model("bert")
    times = table(model, attention=4, feed_forward=30)
    report = prune_model(model, sparsity, level="unit", budget="global", of="latency", times=times)
    left = {block.name: block.total - block.removed for block in report.blocks}
    counts = [(block, left[block.name]) for block in read_anatomy(model).blocks]
    share = (times.whole - times.forward(counts)) / (times.whole - times.rest)
    # A head of a block takes 4 / 3 of 68 milliseconds, the largest step.
    assert sparsity - 0.02 < share <= sparsity + 1e-9


def test_a_table_of_another_model_and_a_budget_without_one_are_refused():
    model = tiny_model("bert")
    other = table(tiny_model("llama"), 1, 1)
    options: dict[str, Any] = {"level": "unit", "budget": "global", "of": "latency"}
    with pytest.raises(ValueError, match=r"no bert.encoder.layer.#.*Measure this model"):
        prune_model(model, 0.5, times=other, **options)
    with pytest.raises(ValueError, match="spends measured times"):
        prune_model(model, 0.5, **options)
    with pytest.raises(ValueError, match="spends measured times"):
        Budget(kind="global", of="flops", times=other)
    times = table(model, 1, 1)
    with pytest.raises(ValueError, match=r"ranks single weights.*Use level='unit'"):
        prune_model(model, 0.5, times=times, **{**options, "level": "weight"})
    assert not any(
        (p == 0).all() for n, p in model.named_parameters() if n.endswith("dense.weight")
    )


@pytest.mark.parametrize("text", ["{", "[]", '{"curves": []}', '{"curves": [{"a": 1}]}'])
def test_a_file_without_a_table_is_refused(tmp_path, text):
    (tmp_path / "times.json").write_text(text)
    with pytest.raises(ValueError, match="holds no table of times"):
        Times.load(tmp_path / "times.json")


TABLE: dict[str, Any] = {
    "whole": 9.0, "shape": [1, 8], "dtype": "float32", "device": "cpu", "threads": 1,
    "hardware": "cpu",
}  # fmt: skip
CURVE: dict[str, Any] = {
    "block": "a", "part": "attention", "units": 4, "blocks": 1, "counts": [2, 4],
    "milliseconds": [0.0, 1.0],
}  # fmt: skip


@pytest.mark.parametrize(
    ("table", "curve", "said"),
    [
        ({"whole": "9"}, {}, "whole of the table should be a number of milliseconds, got '9'"),
        ({"whole": True}, {}, "whole of the table should be a number"),
        ({"whole": float("nan")}, {}, "whole of the table should be a number"),
        ({"shape": "18"}, {}, "shape of the table should be a list"),
        ({"shape": [1.5]}, {}, "shape of the table should be a list"),
        ({"threads": 0}, {}, "threads of the table should be a whole number from 1"),
        ({"device": None}, {}, "device of the table should be a text"),
        ({"environment": []}, {}, "environment of the table should be a mapping"),
        ({"curves": {}}, {}, "curves of the table should be a list of curves"),
        ({"curves": [3]}, {}, "a curve should have .*, got 3"),
        ({"more": 1}, {}, "the table should have"),
        ({}, {"units": "4"}, "units of a curve should be a whole number"),
        ({}, {"units": 10**12}, "units of a curve should be a whole number from 1 to"),
        ({}, {"units": 5}, "counts of a curve should rise to its units 5"),
        ({}, {"counts": [4, 2]}, "counts of a curve should rise"),
        ({}, {"counts": [2, 2, 4]}, "counts of a curve should rise"),
        ({}, {"counts": [-1, 4]}, "counts of a curve should be a list"),
        ({}, {"counts": []}, "counts of a curve should be a list"),
        ({}, {"milliseconds": [1.0]}, "a time for each of 2 counts, got 1"),
        ({}, {"milliseconds": [0.0, float("inf")]}, "milliseconds of a curve should be"),
        ({}, {"part": ["attention"]}, "part of a curve should be a text"),
    ],
)
def test_a_table_with_other_values_is_refused(table, curve, said, tmp_path):
    path = tmp_path / "times.json"
    path.write_text(json.dumps({**TABLE, "curves": [CURVE]}))
    assert Times.load(path).curves[0].counts == (2, 4)
    path.write_text(json.dumps({**TABLE, "curves": [{**CURVE, **curve}], **table}))
    with pytest.raises(ValueError, match=rf"times\.json holds no table of times: .*{said}"):
        Times.load(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch is a positive number"),
        ({"length": 0}, "length is a positive number"),
        ({"length": 4096}, "does not run on a batch of 1 with length 4096"),
        ({"threads": 0}, "threads is a positive number"),
        ({"points": 1}, "takes 2 points and 1 round"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        measure_times(tiny_model("bert"), **options)
