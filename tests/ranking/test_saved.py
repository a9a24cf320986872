"""What training found is found again next to the weights, also under another prefix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertModel

from hf_td.ranking.activations import Activations, find_activations
from tests.tiny import tiny_model

NAME = "encoder.layer.0.output.dense"


def saved(model: Any, name: str, folder: Path) -> None:
    model.save_pretrained(folder)
    Activations({name: torch.arange(64.0)}).save(folder)


@pytest.mark.parametrize("has_head", [True, False])
def test_a_head_may_be_added_or_taken_off(has_head, tmp_path):
    model: Any = tiny_model("bert")
    body = model.bert
    whole, part = (model, f"bert.{NAME}"), (body, NAME)
    (source, before), (target, after) = (whole, part) if has_head else (part, whole)
    saved(source, before, tmp_path)
    loaded = (BertModel if has_head else type(model)).from_pretrained(tmp_path)
    assert type(loaded) is type(target)
    found = find_activations(loaded)
    assert found is not None
    assert found.names() == {after}
    assert torch.equal(found.mean_squares[after], torch.arange(64.0))


def test_they_are_found_in_the_subfolder_that_has_the_config_of_the_model(tmp_path):
    model: Any = tiny_model("bert")
    saved(model, f"bert.{NAME}", tmp_path / "part")
    saved(tiny_model("gpt2"), "transformer.h.0.mlp.c_proj", tmp_path / "other")
    loaded = type(model).from_pretrained(tmp_path, subfolder="part")
    found = find_activations(loaded)
    assert found is not None
    assert found.names() == {f"bert.{NAME}"}
