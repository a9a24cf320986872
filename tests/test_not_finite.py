"""Weights that are not finite are refused by name, and large ones do not overflow when ranked."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from torch.testing import assert_close

from hf_td import (
    compact_model,
    export_model,
    patch_model,
    prune_folder,
    prune_model,
    prune_units,
    read_anatomy,
)
from hf_td.analysis import pruning_curve
from hf_td.anatomy.comparing import compare_outputs
from hf_td.anatomy.finite import check_finite, check_tensors
from hf_td.compaction import can_compact
from hf_td.modules.passing import is_passed
from hf_td.pruning.selection import sites_to_prune
from hf_td.ranking.sites import scores_to_prune
from tests.deep import deep_family
from tests.tiny import TEXT, tiny_model

FIRST, SECOND = "model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.weight"
VALUES = [torch.nan, torch.inf, -torch.inf]
NAMED = (
    rf"{FIRST} of LlamaForCausalLM has 1 values of 2048 that are not finite .*earlier checkpoint"
)

Stage = Callable[[Any, Any], Any]
STAGES: dict[str, Stage] = {
    "patch": lambda model, folder: patch_model(model),
    "prune weights": lambda model, folder: prune_model(model, 0.5, level="weight"),
    "prune units": lambda model, folder: prune_model(model, 0.5, level="unit", budget="global"),
    "random": lambda model, folder: prune_model(model, 0.5, importance="random"),
    "named": lambda model, folder: prune_units(model, {"heads": {0: [0]}}),
    "curve": lambda model, folder: pruning_curve(model, [0.5], lambda _: {"x": 1.0}),
    "can_compact": lambda model, folder: can_compact(model),
    "compact": lambda model, folder: compact_model(model),
    "export": lambda model, folder: export_model(model, folder / "export", check=False),
}


def broken(value: float = torch.nan) -> Any:
    model: Any = tiny_model("llama")
    with torch.no_grad():
        for name in (SECOND, FIRST):
            model.get_parameter(name)[1, 2] = value
    return model


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("value", VALUES)
def test_the_first_tensor_is_named_and_nothing_is_changed(stage, value, tmp_path):
    model = broken(value)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=NAMED):
        STAGES[stage](model, tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor.nan_to_num(7.0), before[name].nan_to_num(7.0)), name
    assert not list(tmp_path.iterdir())


def test_a_given_reading_changes_nothing_of_that():
    anatomy = read_anatomy(tiny_model("llama"))
    with pytest.raises(ValueError, match=NAMED):
        prune_model(broken(), 0.5, anatomy=anatomy)


def test_an_embedding_counts_too():
    model: Any = tiny_model("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[3, 3] = torch.nan
    with pytest.raises(ValueError, match=r"model.embed_tokens.weight of LlamaForCausalLM has 1"):
        prune_model(model, 0.5)


@pytest.mark.parametrize("level", ["weight", "unit"])
def test_a_folder_is_refused_too(level, tmp_path):
    broken().save_pretrained(tmp_path / "dense")
    with pytest.raises(ValueError, match=r"layers\.\d.* of .*model.safetensors has 1 values"):
        prune_folder(tmp_path / "dense", tmp_path / "export", 0.5, level=level)
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn]
)
def test_the_largest_number_is_finite_and_one_more_is_not(dtype):
    largest = torch.full((300, 300), torch.finfo(dtype).max, dtype=dtype)
    check_tensors({"x": largest}, "y")  # its sum overflows
    wide = largest.float() if dtype == torch.float8_e4m3fn else largest.clone()
    wide[7, 7] = torch.nan
    with pytest.raises(ValueError, match=r"x of y has 1 values of 90000"):
        check_tensors({"w": largest, "x": wide.to(dtype)}, "y")


def test_finite_weights_cost_a_sum_and_no_mask(monkeypatch):
    look = torch.Tensor.isfinite

    def at_one_number(tensor: torch.Tensor) -> torch.Tensor:
        assert tensor.numel() == 1
        return look(tensor)

    model = tiny_model("llama")
    monkeypatch.setattr(torch.Tensor, "isfinite", at_one_number)
    check_finite(model)


def test_what_has_no_values_is_left_out():
    with torch.device("meta"):
        check_finite(hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT)))
    check_tensors({"a": torch.empty(0), "b": torch.ones(2, dtype=torch.long)}, "y")


# Norms.

SCALES = [1e19, 1e30, 1e37]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("budget", ["uniform", "global"])
@pytest.mark.parametrize("level", ["weight", "unit"])
def test_weights_whose_squares_overflow_are_pruned_as_small_ones(scale, budget, level):
    factor = 2.0 ** int(torch.tensor(scale).log2())  # no rounding
    model, large = tiny_model("llama"), tiny_model("llama")
    names = [name for name, _ in model.named_parameters() if "_proj" in name]
    with torch.no_grad():
        for name in names:
            large.get_parameter(name).mul_(factor)
    for one in (model, large):
        prune_model(one, 0.5, level=level, budget=budget)
    for name in names:
        kept, expected = large.get_parameter(name) != 0, model.get_parameter(name) != 0
        assert torch.equal(kept, expected), name


def test_large_experts_are_ranked_as_small_ones():
    sizes = {**TEXT, "num_key_value_heads": 2, "num_local_experts": 8}
    settings: dict[str, Any] = {
        "attention_level": "none",
        "feed_forward_level": "none",
        "experts_level": "unit",
    }
    torch.manual_seed(0)
    model = hf.MixtralForCausalLM(hf.MixtralConfig(**sizes)).eval()
    small = [scores_to_prune(site) for site in sites_to_prune(model, **settings)]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".experts." in name:
                parameter.mul_(2.0**100)
    large = [scores_to_prune(site) for site in sites_to_prune(model, **settings)]
    for one, other in zip(small, large, strict=True):
        assert_close(other / 2.0**100, one.double(), rtol=1e-6, atol=0)


def test_scores_that_do_not_overflow_are_those_of_training():
    for level in ("weight", "unit"):
        for site in sites_to_prune(tiny_model("llama"), level=level):
            assert torch.equal(scores_to_prune(site), site.scores())
            assert scores_to_prune(site).dtype == torch.float32


# Outputs.


def test_nan_equals_nothing():
    nan = torch.tensor([1.0, torch.nan])
    with pytest.raises(ValueError, match=r"x is nan in 1 of 2 values before the change"):
        compare_outputs("x", nan, nan.clone(), {torch.float32: 1e-4})
    with pytest.raises(ValueError, match="x differs by nan"):
        compare_outputs("x", torch.ones(2), nan, {torch.float32: 1e-4})


def test_infinities_in_the_same_places_are_equal():
    scores = torch.tensor([1.0, -torch.inf])
    compare_outputs("x", scores, scores.clone(), {torch.float32: 1e-4})


def test_layers_whose_norms_overflow_are_pruned_as_small_ones():
    settings: dict[str, Any] = {
        "attention_level": "none",
        "feed_forward_level": "none",
        "layers_level": "unit",
        "importance": "magnitude",
    }
    reports = []
    for factor in (1.0, 2.0**70):
        model: Any = deep_family("llama")
        with torch.no_grad():
            for number, layer in enumerate(model.model.layers):
                for name, weight in layer.named_parameters():
                    if "_proj" in name:
                        weight.mul_(factor * (1.0, 0.5, 2.0, 0.25)[number])
        report = prune_model(model, 0.5, level="unit", **settings)
        passed = [is_passed(layer) for layer in model.model.layers]
        reports.append((report.sparsity, passed))
    assert reports[0] == reports[1]
    assert reports[0][1] == [False, True, False, True]
