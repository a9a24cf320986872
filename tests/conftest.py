"""Settings that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

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
