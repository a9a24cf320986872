"""Whole experts: pruned, taken out, exported and reloaded."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_td import anneal, compact_model, patch_model, prune_model, pruning_curve, unpatch_model
from hf_td.compaction import compact, layout_of_model
from hf_td.hub import export_model, load_archived_model
from hf_td.modules.routing import marked_routers
from tests.experts.mixtures import (
    CHOSEN,
    EXPERTS,
    ONLY,
    RATES,
    assert_same,
    every_family,
    field_of,
    kept_now,
    left_in,
    logits,
    mixture,
    norms_of,
    routers_of,
    train,
    without,
)
from tests.families import family_outputs


@every_family
def test_what_is_pruned_computes_what_a_model_without_it_does(family, tmp_path):
    model = mixture(family)
    norms = norms_of(model)
    dense = copy.deepcopy(model)
    report = prune_model(model, 0.5, importance="magnitude", **ONLY)
    kept = left_in(model)
    assert kept == [sorted(norm.topk(4).indices.tolist()) for norm in norms]
    removed = {block.name: (block.removed, block.total) for block in report.blocks}
    assert removed["model.layers.1.mlp"] == (4, EXPERTS)
    expected = family_outputs(without(dense, kept))
    assert_same(model, expected)
    assert_same(patch_model(copy.deepcopy(model), **ONLY, **RATES), expected)
    assert_same(exported(model, tmp_path / "masked", expected), expected)
    compact_model(model)
    assert marked_routers(model) == {}
    assert [type(r) for r in routers_of(model)] == [type(r) for r in routers_of(dense)]
    assert model.model.layers[0].mlp.experts.down_proj.shape[0] == 4
    assert_same(model, expected)
    assert_same(exported(model, tmp_path / "compact", expected), expected)


def exported(model: Any, folder: Path, expected: dict[str, Tensor]) -> PreTrainedModel:
    """Return the exported model, loaded; assert that a model with marked routers is not saved."""
    if marked_routers(model):
        with pytest.raises(ValueError, match="the router would choose them again"):
            model.save_pretrained(folder / "saved")
        with pytest.raises(ValueError, match="the router would choose them again"):
            model.base_model.save_pretrained(folder / "saved")
    else:
        model.save_pretrained(folder / "saved")
        assert_same(type(model).from_pretrained(folder / "saved"), expected)
    done = export_model(model, folder / "exported", check=False)
    assert done.form == "stock", done.reason
    again = type(model).from_pretrained(done.folder)
    assert not hasattr(again.config, "quantization_config")
    assert getattr(again.config, field_of(again.config)) == 4
    assert done.parameters == again.num_parameters()
    return again


@every_family
def test_experts_heads_and_neurons_go_together(family, tmp_path):
    model = mixture(family)
    prune_model(model, 0.5, level="unit", experts_level="unit", importance="magnitude")
    expected = family_outputs(model)
    done = export_model(model, tmp_path / "x", check=False)
    assert done.form == "stock", done.reason
    again = type(model).from_pretrained(done.folder)
    width = mixture(family).model.layers[0].mlp.experts.down_proj.numel() // (32 * EXPERTS)
    down = again.model.layers[0].mlp.experts.down_proj
    assert down.numel() == 4 * 32 * width // 2
    assert_same(again, expected)
    assert_same(compact_model(model), expected)


@every_family
def test_layers_that_keep_different_numbers_are_compact(family, tmp_path):
    model = mixture(family)
    with torch.no_grad():
        for stack in model.model.layers[0].mlp.experts.parameters():
            stack[:5] *= 0.01
    prune_model(model, 0.5, importance="magnitude", budget="global", **ONLY)
    kept = left_in(model)
    assert len(kept[0]) < len(kept[1])
    expected = family_outputs(model)
    with pytest.raises(ValueError, match=r"first of model.layers.0.mlp, and experts cannot be pad"):
        export_model(model, tmp_path / "x", form="padded")
    with pytest.raises(ValueError, match="numbers of experts that are left"):
        export_model(model, tmp_path / "x", form="stock")
    done = export_model(model, tmp_path / "x", check=False)
    assert done.form == "compact"
    again = type(model).from_pretrained(done.folder)
    assert [len(router.weight) for router in routers_of(again)] == [len(k) for k in kept]
    assert_same(again, expected)


@pytest.mark.slow
def test_exports_load_in_a_fresh_process(tmp_path):
    model = mixture("mixtral")
    prune_model(model, 0.5, importance="magnitude", **ONLY)
    for form in ("stock", "compact", "archive", "padded"):
        export_model(model, tmp_path / form, form=form)


def test_what_is_masked_comes_back_from_an_archive(tmp_path):
    model = mixture("mixtral")
    prune_model(model, 0.5, importance="magnitude", **ONLY)
    done = export_model(model, tmp_path / "x", form="archive", check=False)
    again = load_archived_model(done.folder)
    assert left_in(again) == left_in(model)
    with pytest.raises(ValueError, match="the router would choose them again"):
        again.save_pretrained(tmp_path / "y")
    assert_same(again, family_outputs(model))


@every_family
@pytest.mark.parametrize("patched", [False, True])
def test_a_curve_restores_everything(family, patched):
    model = mixture(family)
    if patched:
        patch_model(model, **ONLY, **RATES)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    classes = [type(module) for module in model.modules()]
    expected, settings = logits(model), model.config.to_dict()
    seen: list[tuple[int, Tensor]] = []

    def evaluate(pruned: Any) -> float:
        seen.append((len(left_in(pruned)[0]), logits(pruned)))
        return 0.0

    points = pruning_curve(model, [0.0, 0.25, 0.5, 1.0], evaluate, importance="magnitude", **ONLY)
    assert [count for count, _ in seen] == [8, 6, 4, 2]
    assert torch.equal(seen[0][1], expected)
    assert not any(torch.equal(output, expected) for _, output in seen[1:])
    assert points[0].removed_prunable == 0
    assert points[1].removed_prunable < points[2].removed_prunable
    assert torch.equal(logits(model), expected)
    assert [type(module) for module in model.modules()] == classes
    assert model.config.to_dict() == settings
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_pruning_nothing_leaves_no_mark():
    model = mixture("mixtral")
    prune_model(model, 0.0, importance="magnitude", **ONLY)
    assert marked_routers(model) == {}
    assert layout_of_model(model) is None


@pytest.mark.parametrize("importance", ["magnitude", "random"])
def test_pruned_experts_stay_pruned_while_the_rest_trains(importance):
    model = mixture("mixtral")
    prune_model(model, 0.5, importance="magnitude", **ONLY)
    kept = left_in(model)
    patch_model(model, **ONLY, **{**RATES, "targeting": 0.7, "importance": importance})
    train(model, 0, 4)
    unpatch_model(model)
    assert left_in(model) == kept
    assert logits(model.eval()).isfinite().all()
    prune_model(model, 0.75, importance="magnitude", **ONLY)
    assert all(set(now) < set(then) for now, then in zip(left_in(model), kept, strict=True))
    assert [len(now) for now in left_in(model)] == [2, 2]


@pytest.mark.parametrize("of", ["units", "parameters", "flops"])
def test_a_global_budget_ranks_the_experts_of_all_layers(of):
    model = mixture("mixtral")
    prune_model(model, 0.5, importance="magnitude", budget="global", of=of, **ONLY)
    assert sum(map(len, left_in(model))) == EXPERTS
    assert all(len(kept) >= CHOSEN for kept in left_in(model))


def test_pruned_experts_count_for_nothing_in_a_global_budget():
    """A pruned expert ranks below all others, however small their scores are."""
    model = mixture("mixtral")
    with torch.no_grad():
        for layer in model.model.layers:
            for stack in layer.mlp.experts.parameters():
                stack[:4], stack[4:] = 0.0005, 0.001
    prune_model(model, 0.25, layers=[0], importance="magnitude", **ONLY)
    prune_model(model, 0.5, importance="magnitude", budget="global", **ONLY)
    assert left_in(model) == [[4, 5, 6, 7]] * 2


def test_experts_are_not_counted_twice():
    with pytest.raises(ValueError, match=r"count model.layers.0.mlp.experts.down_proj twice"):
        prune_model(mixture("mixtral"), 0.5, level="unit", experts_level="unit", budget="global")


def test_a_random_set_is_the_same_in_training_and_pruning():
    model = patch_model(mixture("mixtral"), **ONLY, **{**RATES, "importance": "random", "seed": 4})
    anneal(model, progress=1.0, update=0)
    kept = kept_now(model)
    unpatch_model(model)
    prune_model(model, 0.5, importance="random", seed=4, **ONLY)
    assert left_in(model) == kept


@pytest.mark.parametrize("check", [True, False])
def test_a_cut_is_checked_or_not_and_undone_as_a_whole(check, monkeypatch):
    model = mixture("mixtral")
    prune_model(model, 0.5, level="unit", experts_level="unit", importance="magnitude")
    expected, settings = family_outputs(model), model.config.to_dict()
    if not check:
        assert_same(compact_model(model, check=False), expected)
        return
    monkeypatch.setattr(compact, "compare", lambda *_: (_ for _ in ()).throw(ValueError("wrong")))
    with pytest.raises(ValueError, match="left as it was: wrong"):
        compact_model(model)
    assert [len(kept) for kept in left_in(model)] == [4, 4]
    assert model.config.to_dict() == settings
    assert_same(model, expected)
