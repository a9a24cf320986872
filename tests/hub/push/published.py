"""Helpers of the tests of publishing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.hub.loopback import Fault
from tests.tiny import tiny_inputs

REPO = "someone/tiny"

# huggingface_hub sends large files by a spelling that its own HTTP client calls deprecated.
ON_A_LOOPBACK_HUB = [
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
    pytest.mark.usefixtures("hub"),
]


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def outputs_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**tiny_inputs(model)).logits


def fresh(fault: Fault) -> Fault:
    return Fault(**{**vars(fault), "seen": 0})
