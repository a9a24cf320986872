"""The scripts in distributed training, as torchrun starts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

import hf_td  # noqa: F401 - loads compact models
from tests.programs import in_two_processes, results_of

pytestmark = pytest.mark.slow

METHODS: dict[str, dict[str, Any]] = {
    # The run has a dense stage, a teacher and an export.
    "targeted_dropout": {"teacher": "start", "dense_epochs": 1, "export_sparsity": 0.5},
    "movement": {},
    "l0": {},
}


@pytest.mark.parametrize("method", METHODS)
def test_an_experiment_in_two_processes(method, options):
    given = {
        **options,
        "seed": 0,
        "level": "unit",
        "method": method,
        **METHODS[method],
    }
    told = in_two_processes("run_glue", given)
    assert told.count("50.0% removed") == 1, "one of the processes tells"
    folder = Path(options["output_dir"])
    results = results_of(options)
    assert len(results["runs"][0]["curve"]) == len(options["sparsities"])
    # 64 sentences in batches of 16, two batches at a time.
    assert results["runs"][0]["training"]["updates"] == 2
    if "export_sparsity" in METHODS[method]:
        AutoModelForSequenceClassification.from_pretrained(folder / "seed-0" / "export")
    assert "kept from an earlier call: seeds [0]" in in_two_processes("run_glue", given)
