"""Settings that all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from hypothesis import settings

from tests.hub.loopback import LoopbackHub, loopback_hub

BESIDE_REPOSITORY = Path(__file__).resolve().parents[2] / "shared" / "data" / "glue"

# The same examples on every run, and no time limit on slow machines.
settings.register_profile("steady", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("steady")


@pytest.fixture(scope="session")
def glue_folder() -> Path:
    """A folder with real GLUE tasks: $HF_TD_GLUE, or shared/data/glue beside the repository."""
    folder = Path(os.environ.get("HF_TD_GLUE", BESIDE_REPOSITORY))
    if not folder.is_dir():
        pytest.skip(f"no GLUE data: set HF_TD_GLUE to a folder with them (looked in {folder})")
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A fresh Hub, which the client takes for the real one."""
    blobs = tmp_path / "server"
    blobs.mkdir()
    with loopback_hub(blobs) as server:
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield server
