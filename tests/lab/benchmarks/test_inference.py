"""The benchmark of compact models, on small ones."""

from __future__ import annotations

from lab.benchmarks.inference import bert_cases, latency_table, measure_cases
from transformers import BertConfig

from tests.tables import unpadded

SMALL = BertConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    vocab_size=64,
)


def test_every_case_is_compared_with_the_dense_model_at_every_size():
    cases = bert_cases(SMALL)
    records = list(measure_cases(cases, [(2, 8), (1, 4)], rounds=2))
    assert [(r["case"], r["sparsity"], r["batch"], r["length"]) for r in records] == [
        (case.name, case.sparsity, *size) for case in cases for size in ((2, 8), (1, 4))
    ]
    parameters = [r["parameters"] for r in records[::2]]
    assert parameters[2:] == sorted(parameters[2:], reverse=True)
    assert parameters[0] > parameters[2]
    for record in records:
        assert record["milliseconds"]["median"] > 0
        spread = record["speedup"]
        assert 0 < spread["low"] <= spread["median"] <= spread["high"]


def test_the_table_has_the_last_of_repeated_measurements():
    spread = {"median": 2.0, "low": 1.0, "high": 3.0}
    facts = {"batch": 1, "length": 4, "threads": 1, "parameters": 2_000_000, "bytes": 8_000_000}
    times = dict.fromkeys(("milliseconds", "dense_milliseconds", "speedup"), spread)
    compact = {"case": "compact", "sparsity": 0.5, **facts, **times}
    dense = {"case": "dense", "sparsity": 0, **facts, **times, "parameters": 4_000_000}
    lines = unpadded(latency_table([{**compact, "bytes": 9e9}, compact, dense])).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| 1 x 4 | 1 | dense | | 4.0 M | 8 | 2.000 (1.000 to 3.000) |")
    assert lines[3].startswith("| 1 x 4 | 1 | compact | 50% | 2.0 M | 8 | 2.000 (1.000 to 3.000) |")
