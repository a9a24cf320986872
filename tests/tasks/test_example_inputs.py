"""Example inputs that a user gives as a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hf_td.tasks.errors import UsageError
from hf_td.tasks.example_inputs import read_example_inputs
from tests.tiny import tiny_model

INPUTS: dict[str, Any] = {
    "input_ids": [[5, 6, 7]],
    "attention_mask": [[1, 1, 0]],
    "inputs_embeds": [[0.5, 1.0]],
    "use_cache": False,
}


def written(folder: Path, content: Any) -> Path:
    file = folder / "inputs.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_lists_of_a_json_file_become_tensors(tmp_path):
    found = read_example_inputs(written(tmp_path, INPUTS), tiny_model("bert").bfloat16())
    assert found is not None
    assert torch.equal(found["input_ids"], torch.tensor([[5, 6, 7]]))
    assert found["inputs_embeds"].dtype == torch.bfloat16
    assert found["use_cache"] is False


def test_tensors_are_read_as_they_are(tmp_path):
    tensors = {"pixel_values": torch.rand(1, 3, 4, 4, dtype=torch.float64)}
    save_file(tensors, tmp_path / "inputs.safetensors")
    found = read_example_inputs(tmp_path / "inputs.safetensors", tiny_model("vit"))
    torch.testing.assert_close(found, tensors)


def test_no_file_holds_no_inputs():
    assert read_example_inputs(None, tiny_model("bert")) is None


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("[1]", "should be a mapping"),
        ("{", "should be JSON: Expecting"),
        ('{"a": [[1], [1, 2]]}', "length"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": [null]}', "NoneType"),
        ('{"a": [{"b": 1}]}', "dict"),
        ('{"a": ["x"]}', "str"),
        (json.dumps({"a": [10**30]}), "[Oo]verflow|too large"),
    ],
)
def test_a_file_without_inputs_is_refused(tmp_path, content, why):
    with pytest.raises(UsageError, match=rf"holds no example inputs: .*{why}.*Expected is"):
        read_example_inputs(written(tmp_path, content), tiny_model("bert"))


def test_a_missing_or_foreign_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"none\.json holds no example inputs"):
        read_example_inputs(tmp_path / "none.json", tiny_model("bert"))
    (tmp_path / "x.safetensors").write_bytes(b"no tensors at all")
    with pytest.raises(UsageError, match=r"x\.safetensors holds no example inputs"):
        read_example_inputs(tmp_path / "x.safetensors", tiny_model("bert"))
