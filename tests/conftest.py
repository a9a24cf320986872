"""Settings that all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from huggingface_hub import constants
from hypothesis import settings

from hf_td.hub import verify
from tests.forks import Forks
from tests.hub.loopback import LoopbackHub, loopback_hub

BESIDE_REPOSITORY = Path(__file__).resolve().parents[2] / "shared"

# The same examples on every run, and no time limit on slow machines.
settings.register_profile("steady", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("steady")


def _folder(variable: str, place: str, what: str) -> Path:
    """The folder that an environment variable names, or one beside the repository.

    Real data are not the project's to publish: a clone has none, and leaves out what needs them.
    """
    folder = Path(os.environ.get(variable, BESIDE_REPOSITORY / place))
    if not folder.is_dir():
        pytest.skip(f"no {what}: set {variable} to a folder with them (looked in {folder})")
    return folder


@pytest.fixture(scope="session")
def glue_folder() -> Path:
    """A folder with real GLUE tasks: $HF_TD_GLUE, or shared/data/glue beside the repository."""
    return _folder("HF_TD_GLUE", "data/glue", "GLUE data")


@pytest.fixture(scope="session")
def wikitext_folder() -> Path:
    """WikiText-2: $HF_TD_WIKITEXT, or shared/data/wikitext-2 beside the repository."""
    return _folder("HF_TD_WIKITEXT", "data/wikitext-2", "files of WikiText-2")


@pytest.fixture(scope="session")
def stories_folder() -> Path:
    """A Llama that writes stories: $HF_TD_STORIES, or shared/models/stories260K beside it."""
    return _folder("HF_TD_STORIES", "models/stories260K", "files of stories260K")


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Fresh processes that have imported torch and Transformers."""
    with closing(Forks()) as found:
        yield found


@pytest.fixture(autouse=True)
def exports_are_loaded_in_forks(
    request: pytest.FixtureRequest, forks: Forks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let exports be loaded again in forks, but for slow tests, which start new processes."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(verify, "subprocess", forks)


@pytest.fixture
def mixed_precision() -> Iterator[Any]:
    """Prepares a model as a Trainer with `bf16` does; no other test sees that."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(mixed_precision="bf16", cpu=True).prepare_model
    AcceleratorState._reset_state(reset_partial_state=True)


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
