"""Refusals of whole experts, with the reason."""

from __future__ import annotations

import pytest
import torch
import transformers as hf

from hf_td import TargetedDropoutConfig, patch_model, prune_model, read_anatomy
from hf_td.baselines import L1, attach_baseline
from tests.experts.mixtures import ONLY, RATES, mixture, routers_of
from tests.families import family_inputs, tiny_family


def test_experts_go_whole():
    with pytest.raises(ValueError, match="needs draw='unit', got draw='element'"):
        TargetedDropoutConfig(experts_level="unit", draw="element")
    with pytest.raises(ValueError, match=r"experts_level must be one of \['unit', 'none'\]"):
        TargetedDropoutConfig(experts_level="weight")  # pyright: ignore[reportArgumentType]


def test_a_model_without_spare_experts_is_refused():
    with pytest.raises(ValueError, match="BertForSequenceClassification has none with more"):
        patch_model(tiny_family("bert"), experts_level="unit")
    with pytest.raises(ValueError, match="MixtralForCausalLM has none with more experts than"):
        prune_model(mixture("mixtral", experts=2), 0.5, experts_level="unit")


def test_a_router_that_chooses_by_more_than_its_logits_is_refused():
    config = hf.Glm4MoeConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        moe_intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        n_routed_experts=8,
        first_k_dense_replace=0,
        pad_token_id=0,
    )
    model = hf.Glm4MoeForCausalLM(config)
    (found,) = read_anatomy(model).mixtures
    assert found.obstacle is not None
    with pytest.raises(ValueError, match=r"a buffer with an entry for each expert, e_score_corr"):
        patch_model(model, **ONLY, **RATES)
    patch_model(model, level="unit", **RATES)  # its heads and neurons can be dropped


def test_rows_of_zeros_that_are_no_mark_are_refused():
    model = mixture("mixtral")
    with torch.no_grad():
        routers_of(model)[0].weight[3] = 0
    with pytest.raises(ValueError, match=r"1 of the 8 rows of model.layers.0.mlp.gate are all ze"):
        prune_model(model, 0.5, importance="magnitude", **ONLY)


def test_what_cannot_rank_or_treat_experts_is_refused():
    batches = [{**family_inputs(mixture("mixtral")), "labels": torch.ones(2, 7, dtype=torch.long)}]
    for importance in ("taylor", "movement"):
        with pytest.raises(ValueError, match=r"cannot rank the experts of model.layers.0"):
            prune_model(mixture("mixtral"), 0.5, importance=importance, calibration=batches, **ONLY)
    with pytest.raises(ValueError, match="Only targeted dropout ranks whole experts"):
        attach_baseline(mixture("mixtral"), L1(), TargetedDropoutConfig(**ONLY))


def test_a_forward_that_was_replaced_is_refused():
    model = mixture("mixtral")
    router = routers_of(model)[0]
    router.forward = router.forward
    for take in (patch_model, lambda model, **_: prune_model(model, 0.5, **ONLY)):
        with pytest.raises(TypeError, match=r"cannot target model.layers.0.mlp.gate: its forward"):
            take(model, **ONLY, **RATES)
