"""An archive to break."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hf_td.hub.archive import read_description, save_archive
from hf_td.hub.archive.codec import BITMASK, DENSE, GAPS
from tests.hub.archive.tensors import pruned


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Write an archive with every encoding: the first tensor by gaps."""
    path = tmp_path / "model.archive.safetensors"
    state = {"gaps": pruned(16, 64, 0.95), "mask": pruned(4, 16, 0.5), "dense": torch.randn(5)}
    save_archive(state, path)
    encodings = [entry.encoding for entry in read_description(path).entries]
    assert encodings == [GAPS, BITMASK, DENSE]
    return path
