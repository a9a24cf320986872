"""A pruned model, its compact export, and waiting that takes no time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import hf_td
from hf_td.hub import export_model
from tests.tiny import tiny_model


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the waits in place of waiting."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


@pytest.fixture(scope="module")
def model() -> Any:
    """Return a model that is pruned at the unit level."""
    pruned = tiny_model("bert")
    hf_td.prune_model(pruned, 0.5, level="unit")
    return pruned


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the compact export of the model."""
    target = tmp_path_factory.mktemp("exports") / "compact"
    return export_model(model, target, form="compact", check=False).folder
