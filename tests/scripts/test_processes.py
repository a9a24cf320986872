"""The scripts in several processes that train together, as torchrun and accelerate start them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

import hf_td  # noqa: F401 - loads compact models
from tests.programs import SCRIPTS, argv_of

pytestmark = pytest.mark.slow

METHODS: dict[str, dict[str, Any]] = {
    # A dense stage of its own, a teacher, an export.
    "targeted_dropout": {"teacher": "start", "dense_epochs": 1, "export_sparsity": 0.5},
    "movement": {},
    "l0": {},
}


def together(options: dict[str, Any]) -> str:
    """What two processes say."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, str(SCRIPTS / "run_glue.py"), *argv_of(options)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("method", METHODS)
def test_an_experiment_in_two_processes(method, options):
    given = {
        **options,
        "seed": 0,
        "ddp_backend": "gloo",
        "level": "unit",
        "method": method,
        **METHODS[method],
    }
    told = together(given)
    assert told.count("50.0% removed") == 1, "one of the processes tells"
    folder = Path(options["output_dir"])
    results = json.loads((folder / "results.json").read_text())
    assert len(results["runs"][0]["curve"]) == len(options["sparsities"])
    # 64 sentences in batches of 16, two batches at a time.
    assert results["runs"][0]["training"]["updates"] == 2
    if "export_sparsity" in METHODS[method]:
        AutoModelForSequenceClassification.from_pretrained(folder / "seed-0" / "export")
    assert "kept from an earlier call: seeds [0]" in together(given)
