"""The bytes of a pruned model, and its score, in each type of number."""

from __future__ import annotations

import pytest

from hf_td.files import read_json_lines
from tests.programs import argv_of, load_script
from tests.scripts.conftest import model  # noqa: F401 - a fixture
from tests.tables import unpadded

bench = load_script("bench_files")


def test_every_type_has_its_bytes_and_its_score(model, tmp_path):  # noqa: F811
    results = tmp_path / "files.jsonl"
    asked = {
        "label": "tiny",
        "sparsity": 0.5,
        "results": results,
        "model_name_or_path": model,
        "task_name": "acceptability",
        "max_train_samples": 32,
        "max_eval_samples": 40,
        "level": "unit",
        "importance": "magnitude",
        "use_cpu": True,
    }
    bench.main(argv_of(asked))
    full, half, eighth = read_json_lines(results)
    assert [line["type"] for line in (full, half, eighth)] == ["float32", "bfloat16", "int8"]
    assert full["bytes"] > 4 * full["parameters"]
    assert half["bytes"] - 2 * half["parameters"] == pytest.approx(
        full["bytes"] - 4 * full["parameters"], abs=2000
    )
    for line in (full, half, eighth):
        assert line["parameters"] == full["parameters"]
        assert line["accuracy"] == pytest.approx(full["accuracy"], abs=0.1)
    table = unpadded(results.with_suffix(".md").read_text()).splitlines()
    assert table[-1].startswith("| tiny | 50% | int8 | onnx | 0.0 | 0.")
