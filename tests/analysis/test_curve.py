"""The pruning curve leaves the model as it was."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hf_td import anneal, patch_model, prune_model, pruning_curve
from tests.tiny import FAMILIES, tiny_inputs, tiny_model

SPARSITIES = [0.5, 0.0, 1.0, 0.75]
every_level = pytest.mark.parametrize("level", ["weight", "unit"])


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    assert model.state_dict().keys() == state.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def mean_logit(model: Any) -> float:
    with torch.no_grad():
        return float(model(**tiny_inputs(model)).logits.mean())


@pytest.mark.parametrize("family", FAMILIES)
@every_level
def test_each_point_is_what_the_pruned_model_is_worth(family, level):
    model = tiny_model(family)
    state, seen = state_of(model), []

    def evaluate(pruned: nn.Module) -> float:
        assert pruned is model
        seen.append(mean_logit(pruned))
        return seen[-1]

    points = pruning_curve(model, SPARSITIES, evaluate, level=level)
    assert_same_state(model, state)
    assert len(seen) == len(SPARSITIES)
    assert [point.sparsity for point in points] == SPARSITIES
    assert [point.metrics for point in points] == [{"metric": value} for value in seen]
    for point in points:
        pruned = tiny_model(family)
        report = prune_model(pruned, point.sparsity, level=level)
        assert point.metrics == {"metric": mean_logit(pruned)}
        assert point.removed_prunable == report.sparsity
        assert point.removed_of_all == report.share_of_parameters


@every_level
def test_a_model_in_training_mode_is_measured_in_eval_mode(level):
    model = patch_model(tiny_model("bert"), level=level, importance="magnitude").train()
    pruned = prune_model(expected := tiny_model("bert"), 0.5, level=level)
    assert pruned.sparsity > 0.4

    def evaluate(pruned: Any) -> float:
        value = mean_logit(pruned)
        pruned.train()  # as a loop does that goes on training
        return value

    points = pruning_curve(model, [0.5, 0.5], evaluate)
    assert [point.metrics["metric"] for point in points] == [mean_logit(expected)] * 2
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@every_level
def test_weights_come_back_after_an_error(error, level):
    model = tiny_model("bert")
    state, calls = state_of(model), []

    def evaluate(pruned: nn.Module) -> float:
        calls.append(pruned)
        if len(calls) == 2:
            raise error("no data")
        return 0.0

    with pytest.raises(error, match="no data"):
        pruning_curve(model, SPARSITIES, evaluate, level=level)
    assert len(calls) == 2
    assert_same_state(model, state)


def test_metrics_may_have_names():
    def evaluate(model: nn.Module) -> dict[str, float]:
        return {"accuracy": 0.5, "f1": 0.25}

    (point,) = pruning_curve(tiny_model("bert"), [0.5], evaluate)
    assert point.metrics == {"accuracy": 0.5, "f1": 0.25}


def test_metrics_are_copied():
    metrics = {"accuracy": 0.0}

    def evaluate(model: nn.Module) -> dict[str, float]:
        metrics["accuracy"] += 1
        return metrics

    points = pruning_curve(tiny_model("bert"), [0.0, 0.5], evaluate)
    assert [point.metrics["accuracy"] for point in points] == [1, 2]


def test_a_number_may_be_a_tensor():
    evaluate: Any = lambda _: torch.tensor(0.5)  # noqa: E731
    (point,) = pruning_curve(tiny_model("bert"), [0.5], evaluate)
    assert point.metrics == {"metric": 0.5}


def test_sparsities_may_come_from_anywhere():
    points = pruning_curve(tiny_model("bert"), (i / 4 for i in range(3)), lambda _: 0.0)
    assert [point.sparsity for point in points] == [0.0, 0.25, 0.5]
    assert pruning_curve(tiny_model("bert"), [], lambda _: 0.0) == []
    fractions: Any = torch.tensor([0.5])
    (point,) = pruning_curve(tiny_model("bert"), fractions, lambda _: 0.0)
    assert point.sparsity == 0.5


@pytest.mark.parametrize("wrong", [0.5, "0.75", ["0.75"], [[0.5]], None], ids=str)
def test_what_are_not_several_numbers_is_refused_before_the_first_evaluation(wrong):
    calls: Any = []
    with pytest.raises(TypeError, match=r"several numbers, as in \[0, 0\.5, 0\.75\]; got"):
        pruning_curve(tiny_model("bert"), wrong, calls.append)
    assert not calls


@pytest.mark.parametrize("of", ["units", "parameters", "flops"])
def test_a_global_budget_spends_what_prune_model_does(of):
    options: Any = {"level": "unit", "budget": "global", "of": of}
    (point,) = pruning_curve(tiny_model("bert"), [0.5], lambda _: 0.0, **options)
    assert point.removed_prunable == prune_model(tiny_model("bert"), 0.5, **options).sparsity


@every_level
def test_a_patched_model_keeps_its_patch_and_its_level_decides(level):
    model = patch_model(tiny_model("bert"), level=level)
    anneal(model, 1.0, 0)
    state = state_of(model)
    points = pruning_curve(model, SPARSITIES, mean_logit)
    assert_same_state(model, state)
    stock = pruning_curve(tiny_model("bert"), SPARSITIES, mean_logit, level=level)
    assert points == stock
    anneal(model, 1.0, 1)


@pytest.mark.parametrize("bad", [-0.1, 1.5, math.nan])
def test_bad_sparsities_are_refused_before_the_first_evaluation(bad):
    calls: Any = []
    with pytest.raises(ValueError, match=r"sparsity is the fraction to remove, in \[0, 1\]"):
        pruning_curve(tiny_model("bert"), [0.5, bad], calls.append)
    assert not calls


def test_a_selection_that_is_not_there_is_refused_before_the_first_evaluation():
    calls: Any = []
    with pytest.raises(ValueError, match=r"there are no layers \[9\]"):
        pruning_curve(tiny_model("bert"), [0.5], calls.append, layers=[9])
    assert not calls


@pytest.mark.parametrize("value", [None, "0.5 accuracy", [0.5, 0.6]])
def test_an_evaluation_without_a_number_is_an_error(value):
    model: Any = tiny_model("bert")
    state = state_of(model)
    with pytest.raises(TypeError, match="It returns a number, or a mapping from names"):
        pruning_curve(model, [0.5], lambda _: value, level="unit")
    assert_same_state(model, state)
