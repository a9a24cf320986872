"""OpenVINO converts dense, masked and compact models, with equal outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from hf_td import compact_model, patch_model, prune_model
from tests.friends.helpers import (
    PROMPT,
    RISING,
    assert_near,
    friend,
    logits_of,
    pruned_export,
)
from tests.tiny import VOCABULARY, tiny_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the libraries, about each other
]


def tokens(batch: int, length: int) -> dict[str, torch.Tensor]:
    draws = torch.Generator().manual_seed(length)
    ids = torch.randint(3, VOCABULARY, (batch, length), generator=draws)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def assert_converts(model: Any) -> None:
    """Assert that the converted model computes the same on inputs of other sizes."""
    openvino = friend("openvino")
    converted = openvino.convert_model(model.eval(), example_input=tokens(2, 8))
    run = openvino.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for sizes in ((2, 8), (3, 5)):
        inputs = tokens(*sizes)
        (got, *_) = run({name: np.asarray(value) for name, value in inputs.items()}).values()
        with torch.no_grad():
            expected = model(**inputs).logits
        assert_close(torch.as_tensor(got), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_a_model_is_converted_at_each_stage(family, tmp_path):
    model = tiny_model(family)
    assert_converts(model)
    patch_model(model, level="unit", **RISING)
    assert_converts(model)
    prune_model(model, 0.5, level="unit")
    assert_converts(model)
    compact_model(model, multiple_of=1)
    assert_converts(model)
    model.save_pretrained(tmp_path)
    assert_converts(AutoModelForSequenceClassification.from_pretrained(tmp_path))


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_stock_export_of_a_language_model_is_converted(family, tmp_path):
    openvino = friend("openvino")
    model, folder = pruned_export(family, tmp_path / "stock")
    again = AutoModelForCausalLM.from_pretrained(folder, use_cache=False).eval()
    ids = torch.tensor([PROMPT])
    # Without a mask the forward looks for packed sequences, by an operation OpenVINO does not have.
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    converted = openvino.convert_model(again, example_input=inputs)
    run = openvino.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    (got, *_) = run({name: value.numpy() for name, value in inputs.items()}).values()
    assert_near(torch.as_tensor(got)[0], logits_of(model, PROMPT), 1e-4)
