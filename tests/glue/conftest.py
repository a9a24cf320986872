import os
from pathlib import Path

import pytest

BESIDE_REPOSITORY = Path(__file__).resolve().parents[3] / "shared" / "data" / "glue"


@pytest.fixture(scope="session")
def glue_folder() -> Path:
    """A folder with real GLUE tasks: $HF_TD_GLUE, or shared/data/glue beside the repository."""
    folder = Path(os.environ.get("HF_TD_GLUE", BESIDE_REPOSITORY))
    if not folder.is_dir():
        pytest.skip(f"no GLUE data: set HF_TD_GLUE to a folder with them (looked in {folder})")
    return folder
