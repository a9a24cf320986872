"""Importance by gradients and by chance, each against its definition."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from hf_td import anneal, patch_model, prune_model, read_anatomy, unpatch_model
from hf_td.config import TargetedDropoutConfig
from hf_td.patching.layers import kept
from hf_td.pruning import Budget, sites_to_prune
from hf_td.pruning.first_order import movement_scores, taylor_scores
from hf_td.ranking.sites import Site, WeightSite, plan_sites
from tests.families import family_inputs, tiny_family
from tests.tiny import tiny_inputs, tiny_model

DOWN = "bert.encoder.layer.0.output.dense"
QUERY = "bert.encoder.layer.1.attention.self.query"
every_level = pytest.mark.parametrize("level", ["weight", "unit"])


def batches(model: Any, count: int = 2) -> list[dict[str, Any]]:
    """Return batches with labels, each of other examples."""
    torch.manual_seed(0)
    ids = torch.randint(3, 60, (count, 2, 7))
    return [{"input_ids": i, "labels": torch.tensor([0, 1])} for i in ids]


def sites_of(model: nn.Module, level: Any, **settings: Any) -> tuple[Site, ...]:
    config = TargetedDropoutConfig(level=level, **settings)
    return plan_sites(model, read_anatomy(model), config)


def test_the_scores_of_weights_by_backward():
    model = tiny_model("bert")
    data = batches(model)
    weight = model.get_parameter(f"{QUERY}.weight")
    terms = []
    for batch in data:
        model.zero_grad()
        model(**batch).loss.backward()
        assert weight.grad is not None
        terms.append(weight.detach() * weight.grad)
    model.zero_grad()
    sites = sites_of(model, "weight")
    assert_close(taylor_scores(model, sites, data)[QUERY], terms[0].abs() + terms[1].abs())
    assert_close(movement_scores(model, sites, data)[QUERY], -terms[0] - terms[1])
    assert weight.grad is None


@pytest.mark.parametrize("name", [DOWN, "bert.encoder.layer.1.attention.output.dense"])
def test_the_scores_of_units_are_the_change_of_the_loss_by_a_little_less_of_them(name):
    """Scale a unit's columns by 1 - epsilon, in double precision, and take differences."""
    model = tiny_model("bert").double()
    (batch,) = batches(model, count=1)
    (site,) = [s for s in sites_of(model, "unit") if s.name == name]
    scores = movement_scores(model, [site], [batch])[name]
    taylor = taylor_scores(model, [site], [batch])[name]
    weight, step = site.layer.weight.data, 1e-5
    units = len(scores)
    per_unit = weight.shape[1] // units
    with torch.no_grad():
        loss = model(**batch).loss
        for unit in range(0, units, 3):
            columns = weight[:, unit * per_unit : (unit + 1) * per_unit]
            columns.mul_(1 - step)
            change = float(model(**batch).loss - loss) / step
            columns.div_(1 - step)
            assert float(scores[unit]) == pytest.approx(change, rel=1e-3, abs=1e-7)
    assert_close(taylor, scores.abs())


def test_units_that_are_tied_have_one_score():
    model = tiny_model("t5")
    ids = tiny_inputs(model)["input_ids"]
    sites = sites_of(model, "unit", include=("encoder.*.o",))
    scores = taylor_scores(model, sites, [{"input_ids": ids, "labels": ids}])
    assert len(sites) == 2
    assert torch.equal(scores[sites[0].name], scores[sites[1].name])
    alone = taylor_scores(model, sites[:1], [{"input_ids": ids, "labels": ids}])
    assert not torch.equal(alone[sites[0].name], scores[sites[0].name])


@every_level
@pytest.mark.parametrize("importance", ["taylor", "movement"])
def test_what_matters_least_to_the_loss_goes(level, importance):
    model = tiny_model("bert")
    data = batches(model)
    before = [p.requires_grad for p in model.parameters()]
    model.get_parameter(f"{DOWN}.weight").requires_grad_(False)
    measure = {"taylor": taylor_scores, "movement": movement_scores}[importance]
    (site,) = [s for s in sites_of(model, level) if s.name == DOWN]
    scores = measure(model, [site], data)[DOWN]
    model.train()
    report = prune_model(model, 0.5, level=level, importance=importance, calibration=data)
    assert model.training
    assert report.sparsity >= 0.5
    assert not model.get_parameter(f"{DOWN}.weight").requires_grad
    assert sum(before) == 1 + sum(p.requires_grad for p in model.parameters())
    gone = model.get_parameter(f"{DOWN}.weight") == 0
    gone = gone if level == "weight" else gone.all(0)
    lowest = scores.argsort(dim=-1)[..., : scores.shape[-1] // 2]
    assert gone.gather(-1, lowest).all()
    assert int(gone.sum()) == gone.numel() // 2


@every_level
def test_experts_are_ranked_by_gradients_too(level):
    model = tiny_family("mixtral")
    ids = family_inputs(model)["input_ids"]
    data = [{"input_ids": ids, "labels": ids}]
    report = prune_model(model, 0.5, level=level, importance="taylor", calibration=data)
    assert report.sparsity == pytest.approx(0.5, abs=0.02)


def test_a_global_budget_takes_signed_scores():
    model = tiny_model("bert")
    how: dict[str, Any] = {"importance": "movement", "calibration": batches(model)}
    assert prune_model(model, 0.4, level="unit", budget="global", **how).sparsity > 0.2
    untouched = tiny_model("bert")
    assert prune_model(untouched, 0.0, level="unit", budget="global", **how).removed == 0


@every_level
def test_a_random_set_is_the_one_that_training_dropped(level):
    settings: dict[str, Any] = {"level": level, "targeting": 0.5, "targeting_schedule": "constant"}
    model = patch_model(tiny_model("bert"), importance="random", seed=3, **settings)
    anneal(model, progress=1.0, update=0)
    layer: Any = model.get_submodule(DOWN)
    dropped = ~kept(layer)
    config = TargetedDropoutConfig(importance="random", seed=3, **settings)
    unpatch_model(model)
    prune_model(model, 0.5, config)
    gone = model.get_parameter(f"{DOWN}.weight") == 0
    assert torch.equal(gone, dropped)
    assert 0 < int(dropped.sum()) < dropped.numel()


# --- what is refused ---


@pytest.mark.parametrize("importance", ["taylor", "movement"])
def test_gradients_need_training_data_with_labels(importance):
    model = tiny_model("bert")
    with pytest.raises(ValueError, match=rf"'{importance}' looks at gradients\. Pass"):
        prune_model(model, 0.5, importance=importance)
    with pytest.raises(ValueError, match=r"calibration needs batches .* there was none"):
        prune_model(model, 0.5, importance=importance, calibration=[])
    with pytest.raises(ValueError, match=r"needs the loss\. Pass batches with labels"):
        sites_to_prune(model, importance=importance, calibration=[tiny_inputs(model)])


@pytest.mark.parametrize("importance", ["taylor", "movement"])
def test_gradients_cannot_target(importance):
    with pytest.raises(
        ValueError, match=f"importance '{importance}' can rank for pruning, but not"
    ):
        patch_model(tiny_model("bert"), importance=importance)


def test_a_second_pruning_by_movement_takes_zeros_first():
    model = tiny_model("bert")
    batch = {**tiny_inputs(model), "labels": torch.zeros(2, dtype=torch.long)}
    how: dict[str, Any] = {"level": "weight", "importance": "movement", "calibration": [batch]}
    prune_model(model, 0.3, **how)
    for _ in range(2):
        assert prune_model(model, 0.5, **how).sparsity == pytest.approx(0.5, abs=0.02)


def test_a_global_budget_takes_no_more_than_asked_of_equal_scores():
    how: dict[str, Any] = {"level": "unit", "attention_level": "none", "importance": "magnitude"}
    removed = []
    for budget in ("uniform", "global"):
        model = tiny_model("bert")
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "output.dense.weight" in name or "intermediate.dense.weight" in name:
                    weight.fill_(0.01)
        removed.append(prune_model(model, 0.25, budget=budget, **how).removed)
    assert removed[0] == removed[1] > 0


def test_a_global_budget_keeps_a_pattern():
    model = tiny_model("bert")
    prune_model(model, 0.5, level="weight", pattern="2:4", budget="global")
    for site in sites_to_prune(model, level="weight"):
        groups = site.layer.weight.detach().reshape(-1, 4)
        assert bool(((groups == 0).sum(1) >= 2).all())


def test_removed_entries_are_taken_first_and_leave_the_others_comparable():
    given = [[-math.inf, -math.inf, 1.0, 2.0], [10.0, 20.0, 30.0, 40.0]]
    sites = [
        WeightSite(name, nn.Linear(4, 1), number, given=torch.tensor([scores]))
        for number, (name, scores) in enumerate(zip("ab", given, strict=True))
    ]
    chosen = Budget(kind="global", floor=0.0).choose(sites, 0.5)
    assert chosen[0].tolist() == [[True, True, False, False]]
    assert chosen[1].tolist() == [[True, True, False, False]]
    assert Budget().choose(sites[:1], 0.5)[0].tolist() == [[True, True, False, False]]


def test_half_precision_does_not_round_first_order_terms_to_zero():
    wide = tiny_model("bert")
    (batch,) = batches(wide, count=1)
    exact = taylor_scores(wide, sites_of(wide, "weight"), [batch])[QUERY]
    narrow = tiny_model("bert").half()  # products are below the smallest number of float16
    found = taylor_scores(narrow, sites_of(narrow, "weight"), [batch])[QUERY]
    assert (exact > 0).float().mean() > 0.9
    assert found.dtype == torch.float32
    assert (found > 0).float().mean() > 0.5


@pytest.mark.parametrize("importance", ["magnitude", "random"])
def test_a_calibration_that_nothing_reads_is_refused(importance):
    model = tiny_model("bert")
    trained: dict[str, Any] = {"config": TargetedDropoutConfig(importance=importance)}
    for settings in ({"importance": importance}, trained):
        with pytest.raises(ValueError, match=f"{importance}.*measures nothing on data"):
            prune_model(model, 0.5, calibration=[{"nonsense": 1}], **settings)
