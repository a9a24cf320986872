"""Adapters, baselines and mixed precision on a model, and its export."""

from __future__ import annotations

from typing import Any

import pytest
from peft import LoraConfig, get_peft_model

from hf_td import TargetedDropoutConfig, export_model
from hf_td.baselines import L0, attach_baseline
from tests.compaction.models import masked_model
from tests.tiny import tiny_model


def test_a_model_that_a_trainer_ran_in_mixed_precision_is_compared_in_its_own_type(
    mixed_precision, tmp_path
):
    model = mixed_precision(masked_model("bert", 0.5))
    around = model.__dict__["forward"]
    written = export_model(model, tmp_path / "export")
    assert written.ways
    assert model.__dict__["forward"] is around


def test_what_no_checkpoint_can_say_is_refused_before_anything_is_written(tmp_path):
    adapted: Any = get_peft_model(tiny_model("bert"), LoraConfig(target_modules=["query"]))
    with pytest.raises(TypeError, match=r"got PeftModel; .*merge_and_unload"):
        export_model(adapted, tmp_path / "export")
    with pytest.raises(ValueError, match="query has an adapter; merge it"):
        export_model(adapted.base_model.model, tmp_path / "export")
    sparse = tiny_model("bert")
    attach_baseline(sparse, L0(), TargetedDropoutConfig(level="weight"))
    with pytest.raises(ValueError, match=r"query is computed, .*call finish_baseline"):
        export_model(sparse, tmp_path / "export")
    assert not list(tmp_path.iterdir())
