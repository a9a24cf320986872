"""Arguments of a caller are used; what is not given is found once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hf_td import compact_model, patch_model, prune_model, pruning_curve, read_anatomy
from hf_td.analysis import measure_dependence
from hf_td.anatomy import given
from hf_td.compaction import can_compact, layout_of_model
from hf_td.pruning import selection, sites_to_prune
from hf_td.ranking.activations import Activations, attach_activations, measure_activations
from hf_td.ranking.learned import attach_learned
from tests.tiny import tiny_inputs, tiny_model

DOWN = "bert.encoder.layer.0.output.dense"


def batch_of(model: Any) -> dict[str, Any]:
    return {**tiny_inputs(model), "labels": torch.tensor([0, 1])}


def zero_curve(model: Any, **options: Any) -> Any:
    return pruning_curve(model, [0.0, 0.25, 0.5], lambda _: 0.0, **options)


def pruned_first(stage: Any) -> Any:
    def run(model: Any, **options: Any) -> Any:
        prune_model(model, 0.5, level="unit", anatomy=read_anatomy(model))
        return stage(model, **options)

    return run


STAGES: dict[str, Any] = {
    "prune_model": lambda model, **options: prune_model(model, 0.5, **options),
    "pruning_curve": zero_curve,
    "measure_dependence": lambda m, **o: measure_dependence(m, 0.5, [batch_of(m)], **o),
    "sites_to_prune": sites_to_prune,
    "compact_model": pruned_first(compact_model),
    "can_compact": pruned_first(can_compact),
}


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the list that every reading adds its model to."""
    seen: list[Any] = []

    def counted(model: Any, *arguments: Any) -> Any:
        seen.append(model)
        return read_anatomy(model, *arguments)

    monkeypatch.setattr(given, "read_anatomy", counted)
    return seen


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("patched", [False, True])
def test_a_model_is_read_once(stage, patched, readings):
    model = tiny_model("bert")
    if patched:
        patch_model(model, level="unit", importance="magnitude")
    readings.clear()
    STAGES[stage](model)
    assert readings == [model]


@pytest.mark.parametrize("stage", STAGES)
def test_a_given_anatomy_is_used(stage, readings):
    model = tiny_model("bert")
    STAGES[stage](model, anatomy=read_anatomy(model))
    assert not readings


def test_a_given_anatomy_says_what_is_ranked():
    model = tiny_model("bert")
    anatomy = read_anatomy(model)
    first = type(anatomy)(blocks=anatomy.blocks[:1])
    report = prune_model(model, 0.5, level="unit", anatomy=first)
    assert [block.name for block in report.blocks] == [anatomy.blocks[0].name]
    assert not (model.get_parameter(f"{DOWN}.weight") == 0).all(0).any()


@pytest.mark.parametrize("stage", STAGES)
def test_an_anatomy_of_another_model_is_refused(stage):
    with pytest.raises(ValueError, match=r"the anatomy does not fit Bert.*h\.0.* is missing or"):
        STAGES[stage](tiny_model("bert"), anatomy=read_anatomy(tiny_model("gpt2")))


def test_an_anatomy_from_before_a_cut_is_refused():
    model = tiny_model("bert")
    anatomy = read_anatomy(model)
    prune_model(model, 0.5, level="unit", anatomy=anatomy)
    compact_model(model, anatomy=anatomy)
    assert layout_of_model(model) is not None
    with pytest.raises(ValueError, match=r"does not fit Bert.*query is missing or smaller"):
        prune_model(model, 0.5, level="unit", anatomy=anatomy)


def columns_removed(model: Any) -> Tensor:
    return (model.get_parameter(f"{DOWN}.weight") == 0).all(0)


def scores_for(model: Any) -> dict[str, Tensor]:
    """Return ascending scores of every unit: the first are removed."""
    sites = sites_to_prune(model, level="unit", importance="magnitude")
    return {site.name: torch.arange(float(len(site.scores()))) for site in sites}


def test_given_scores_are_ranked_by():
    model = tiny_model("bert")
    prune_model(model, 0.25, level="unit", scores=scores_for(model))
    assert columns_removed(model).tolist() == [True] * 16 + [False] * 48
    points = pruning_curve(
        tiny_model("bert"),
        [0.25],
        lambda pruned: float(columns_removed(pruned)[:16].all()),
        level="unit",
        scores=scores_for(model),
    )
    assert points[0].metrics == {"metric": 1.0}


def test_given_scores_come_before_those_that_were_learned(monkeypatch):
    model = tiny_model("bert")
    attach_learned(model, {name: -scores for name, scores in scores_for(model).items()})
    monkeypatch.setattr(selection, "find_learned", None)
    prune_model(model, 0.25, level="unit", scores=scores_for(model))
    assert columns_removed(model).tolist() == [True] * 16 + [False] * 48


@pytest.mark.parametrize("stage", ["prune_model", "pruning_curve", "measure_dependence"])
def test_learned_scores_are_found_once(stage, monkeypatch):
    calls: list[Any] = []
    scores = scores_for(tiny_model("bert"))
    monkeypatch.setattr(selection, "find_learned", lambda model: calls.append(model) or scores)
    for options in ({}, {"importance": "learned"}):
        calls.clear()
        STAGES[stage](tiny_model("bert"), level="unit", **options)
        assert len(calls) == 1


def test_given_activations_are_used(monkeypatch):
    model = tiny_model("bert")
    names = [site.name for site in sites_to_prune(model, level="unit", importance="magnitude")]
    measured = measure_activations(model, names, [tiny_inputs(model)])
    shrunk = {**measured.mean_squares, DOWN: torch.ones(64).index_fill(0, torch.arange(8), 0.0)}
    attach_activations(model, measured)
    monkeypatch.setattr(selection, "find_activations", None)
    prune_model(model, 0.125, level="unit", activations=Activations(shrunk))
    assert columns_removed(model).tolist() == [True] * 8 + [False] * 56


def test_activations_are_found_once(monkeypatch):
    model = tiny_model("bert")
    names = [site.name for site in sites_to_prune(model, level="unit", importance="magnitude")]
    measured = measure_activations(model, names, [tiny_inputs(model)])
    calls: list[Any] = []
    monkeypatch.setattr(selection, "find_activations", lambda m: calls.append(m) or measured)
    zero_curve(model, level="unit", importance="activation")
    assert calls == [model]


# --- what is refused ---


def test_only_one_thing_may_say_what_to_rank_by():
    model = tiny_model("bert")
    both: dict[str, Any] = {"scores": {}, "activations": Activations()}
    with pytest.raises(ValueError, match=r"activations and scores are given, .* Pass one of them"):
        prune_model(model, 0.5, **both)
    with pytest.raises(ValueError, match=r"calibration and scores are given"):
        prune_model(model, 0.5, calibration=[tiny_inputs(model)], scores={})
    with pytest.raises(ValueError, match=r"importance='taylor' does not use scores"):
        prune_model(model, 0.5, importance="taylor", scores={})
    with pytest.raises(ValueError, match=r"importance='magnitude' does not use activations"):
        prune_model(model, 0.5, importance="magnitude", activations=Activations())


def test_given_scores_and_activations_have_to_be_of_all_sites():
    model = tiny_model("bert")
    scores = scores_for(model)
    with pytest.raises(ValueError, match=r"have the shape \(8,\), and \(64,\) is needed"):
        prune_model(model, 0.5, level="unit", scores={**scores, DOWN: torch.ones(8)})
    with pytest.raises(ValueError, match=r"scores has no entry for .*0\.attention\.output"):
        prune_model(model, 0.5, level="unit", scores={})
    with pytest.raises(ValueError, match=r"activations of .* and 2 more layers are missing"):
        prune_model(model, 0.5, level="unit", activations=Activations({DOWN: torch.ones(64)}))
