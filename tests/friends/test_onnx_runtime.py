"""ONNX Runtime runs exports of language models, and quantises them to 8 bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from hf_td import export_model
from tests.friends.helpers import PROMPT, assert_near, friend, logits_of, pruned_export

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the libraries
]


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_an_export_is_quantised_to_8_bits(family, tmp_path):
    quantization = friend("onnxruntime.quantization")
    runtime = friend("onnxruntime")
    model, _ = pruned_export(family, tmp_path / "stock")
    export_model(model, tmp_path / "onnx", form="onnx", check=False)
    exact, small = tmp_path / "onnx" / "model.onnx", tmp_path / "int8.onnx"
    quantization.quantize_dynamic(exact, small, weight_type=quantization.QuantType.QInt8)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "stock")
    weights = sum(p.numel() for p in stock.parameters() if p.dim() == 2)
    before = sum(file.stat().st_size for file in exact.parent.glob("*.onnx*"))
    # Of the 3 bytes that each weight saves, scales and nodes take some in a model as tiny as this.
    assert before - small.stat().st_size > 2 * weights
    ids = np.array([PROMPT])
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    expected = logits_of(model, PROMPT)
    for file, share in ((exact, 1e-4), (small, 0.15)):
        session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
        assert_near(torch.from_numpy(session.run(None, inputs)[0])[0], expected, share)
