"""Pruning to a speed, a size and a loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hf_td import export_model, prune_model, prune_to
from hf_td.wishes.measures import Measures
from tests.tiny import tiny_inputs, tiny_model


def by_parameters(measures: Any) -> float:
    """A time that is in proportion to the number of parameters that are left."""
    cut, whole = measures._cut(), measures.whole
    return cut.num_parameters() / whole.num_parameters()


@pytest.fixture
def steady(monkeypatch):
    """Steps of the search that no other process disturbs."""
    monkeypatch.setattr(Measures, "time", by_parameters)


@pytest.mark.parametrize("family", ["bert", "llama", "t5", "vit"])
def test_a_speed_is_reached_by_heads_and_neurons(steady, family):
    model: Any = tiny_model(family)
    report = prune_to(model, speedup=1.3, batch=2, length=8, threads=1)
    assert all(block.removed for block in report.pruning.blocks)
    twin: Any = tiny_model(family)
    prune_model(twin, report.sparsity, level="unit")
    assert all(map(torch.equal, model.state_dict().values(), twin.state_dict().values()))
    (wish,) = report.wishes
    assert wish.name == "speedup"
    assert wish.got > 0
    assert "1 threads" in wish.how
    assert "wanted 1.30 times as fast, got" in str(report)
    assert report.to_dict()["wishes"][0]["wanted"] == 1.3


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_exported_files_are_as_small_as_wanted_and_hardly_smaller(family, tmp_path):
    model: Any = tiny_model(family)
    dense = export_model(model, tmp_path / "dense", check=False).bytes
    least = prune_to(tiny_model(family), max_bytes=dense - 4097).sparsity
    wanted = dense - 8_000
    report = prune_to(model, max_bytes=wanted)
    export = export_model(model, tmp_path / "small", check=False)
    assert export.bytes <= wanted
    assert report.wishes[0].met
    assert report.sparsity > least
    twin: Any = tiny_model(family)
    prune_model(twin, report.sparsity - 0.1, level="unit")
    assert export_model(twin, tmp_path / "twin", check=False).bytes > wanted - 4096


def metric(model: Any) -> float:
    """The share of the prunable weights that are left."""
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and ".layer." in n]
    return sum(int((p != 0).sum()) for p in matrices) / sum(p.numel() for p in matrices)


@pytest.mark.parametrize("lower_is_better", [False, True])
@pytest.mark.parametrize("level", ["weight", "unit"])
def test_a_loss_is_used_up_and_no_more(level, lower_is_better):
    def evaluate(model: Any) -> float:
        return 2 - metric(model) if lower_is_better else metric(model)

    model = tiny_model("bert")
    report = prune_to(
        model, max_loss=0.4, evaluate=evaluate, lower_is_better=lower_is_better, level=level
    )
    (wish,) = report.wishes
    assert wish.got <= 0.4
    # A head of four is the coarsest step: a twelfth of a layer.
    assert wish.got > (0.2 if level == "unit" else 0.35)
    assert metric(model) == pytest.approx(1 - wish.got, abs=1e-3)


def test_wishes_that_exclude_each_other_name_the_nearest_and_change_nothing(steady):
    model, twin = tiny_model("bert"), tiny_model("bert")
    model.name_or_path = "a folder"
    options: dict[str, Any] = {"evaluate": metric, "batch": 1, "length": 8}
    with pytest.raises(ValueError, match=r"speedup=1\.4 cannot be met with max_loss=0\.1: it"):
        prune_to(model, speedup=1.4, max_loss=0.1, **options)
    assert all(map(torch.equal, model.state_dict().values(), twin.state_dict().values()))
    assert model.name_or_path == "a folder"
    report = prune_to(model, speedup=1.3, max_loss=0.9, **options)
    assert [wish.name for wish in report.wishes] == ["speedup", "max_loss"]
    assert report.wishes[1].met


def test_where_nothing_is_faster_no_slower_wish_is_named(monkeypatch):
    monkeypatch.setattr(Measures, "time", lambda measures: 1.2)
    with pytest.raises(ValueError, match=r"0\.83 times as fast\. Nothing makes it faster here"):
        prune_to(tiny_model("bert"), speedup=1.5, batch=1, length=8)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"speedup": 1000.0}, r"speedup=1000 cannot be met: .* The nearest wish is speedup=\d"),
        ({"max_bytes": 5000}, r"max_bytes=5000 cannot be met: .* The nearest wish is max_bytes=\d"),
        (
            {"max_loss": 0.01, "evaluate": lambda model: 1.0 if (metric(model) == 1) else 0.5},
            r"max_loss=0.01 cannot be met: .* loses 50.00%",
        ),
    ],
)
def test_a_wish_that_cannot_be_met_names_the_nearest(steady, wish, message):
    model, twin = tiny_model("bert"), tiny_model("bert")
    with pytest.raises(ValueError, match=message):
        prune_to(model, **wish, batch=1, length=8, level="unit")
    assert all(map(torch.equal, model.state_dict().values(), twin.state_dict().values()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "there is no wish"),
        ({"speedup": 1.0}, "above 1; got 1.0"),
        ({"max_bytes": 0}, "a positive number of bytes, got 0"),
        ({"max_loss": 0.1}, "max_loss needs a metric"),
        ({"speedup": 2.0, "evaluate": metric}, "max_loss needs a metric"),
        ({"max_loss": 1.0, "evaluate": metric}, r"in \[0, 1\); got 1.0"),
        ({"speedup": 2.0, "level": "weight"}, r"no speedup\. Use level='unit'"),
        ({"max_bytes": 9000, "level": "weight"}, r"no file smaller .* or form='archive'"),
    ],
)
def test_what_is_no_wish_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        prune_to(tiny_model("bert"), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_bytes": "25MB"}, "max_bytes is a positive number of bytes, .* got '25MB'"),
        ({"speedup": "2"}, "speedup is how many times as fast, a number above 1, got '2'"),
        ({"max_loss": 0.1, "evaluate": lambda model: None}, "evaluate returned None"),
        ({"speed": 2}, r"unknown settings \['speed'\]; .*'speedup'.*Did you mean .*speedup\?"),
        ({"max_bytes": 9000, "lenght": 3}, r"\['lenght'\]; .*'batch'.*Did you mean length"),
    ],
)
def test_what_has_another_type_or_name_is_refused(options, message):
    with pytest.raises(TypeError, match=message):
        prune_to(tiny_model("bert"), **options)


def test_single_weights_make_a_compressed_archive_smaller(tmp_path):
    model: Any = tiny_model("bert")
    dense = export_model(model, tmp_path / "dense", form="archive", check=False).bytes
    report = prune_to(model, max_bytes=dense - 15_000, form="archive", level="weight")
    assert 0 < report.sparsity < 1
    assert (
        export_model(model, tmp_path / "small", form="archive", check=False).bytes <= dense - 15_000
    )


def test_compensation_is_part_of_the_loss_and_of_the_result():
    def inputs() -> list[dict[str, Any]]:
        return [
            {k: v for k, v in tiny_inputs(tiny_model("bert"), batch=8).items() if k != "labels"}
        ]

    model, twin = tiny_model("bert"), tiny_model("bert")
    options: dict[str, Any] = {
        "level": "unit",
        "calibration": [tiny_inputs(model, batch=8)],
        "compensate": True,
    }
    report = prune_to(model, max_loss=0.5, evaluate=metric, **options)
    prune_model(twin, report.sparsity, **options)
    assert all(map(torch.equal, model.state_dict().values(), twin.state_dict().values()))


def test_a_loss_is_measured_in_eval_mode_and_the_mode_is_kept():
    model: Any = tiny_model("bert").train()
    modes: list[bool] = []

    def evaluate(model: Any) -> float:
        modes.append(model.training)
        return metric(model)

    prune_to(model, max_loss=0.5, evaluate=evaluate, level="unit")
    assert model.training
    assert len(modes) > 1
    assert not any(modes)
