"""The benchmark of compact models, on small ones."""

from __future__ import annotations

from lab.benchmarks import generation
from lab.benchmarks.generation import generation_table, measure_generation
from lab.benchmarks.inference import bert_cases, latency_table, measure_cases
from lab.benchmarks.training.cases import Shape
from transformers import BertConfig

from hf_td.analysis import timing
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
    facts |= {"hardware": {"cpu": "a CPU", "gpus": ["a GPU"]}}
    times = dict.fromkeys(("milliseconds", "dense_milliseconds", "speedup"), spread)
    compact = {"case": "compact", "sparsity": 0.5, **facts, **times}
    dense = {"case": "dense", "sparsity": 0, **facts, **times, "parameters": 4_000_000}
    on_gpu = {**dense, "device": "cuda", "precision": "bfloat16"}
    measured = [{**compact, "bytes": 9e9}, compact, dense, on_gpu, {"kind": "generation"}]
    lines = unpadded(latency_table(measured)).splitlines()
    assert len(lines) == 5
    assert lines[2].startswith(
        "| 1 x 4 | 1 thread, a CPU | float32 | dense | | 4.0 M | 8 | 2.000 (1.000 to 3.000) |"
    )
    assert lines[3].startswith(
        "| 1 x 4 | 1 thread, a CPU | float32 | compact | 50% | 2.0 M | 8 | 2.000 (1.000 to 3.000) |"
    )
    assert lines[4].startswith("| 1 x 4 | a GPU | bfloat16 | dense |")


def test_generation_is_compared_with_the_dense_model_for_every_batch(monkeypatch):
    steps: list[tuple[int, int, int]] = []
    monkeypatch.setattr(
        generation, "write", lambda model, ids, new: steps.append((*ids.shape, new))
    )
    shape = Shape("Llama", hidden=32, layers=1, heads=8)
    found = list(measure_generation(shape, batches=[1, 3], lengths=(4, 2), rounds=2))
    assert [(r["sparsity"], r["batch"]) for r in found] == [
        (0.5, 1),
        (0.5, 3),
        (0.75, 1),
        (0.75, 3),
    ]
    assert steps[:6] == [(1, 4, 2)] * 6  # a warm-up and two rounds of two models
    assert all(r["parameters"] < r["dense_parameters"] for r in found)


def test_tokens_are_counted_by_the_second(monkeypatch):
    clock = iter(range(100))  # every generation takes a second
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
    shape = Shape("Llama", hidden=32, layers=1, heads=8)
    found = measure_generation(shape, batches=[3], lengths=(4, 2), rounds=2)
    record = next(found) | {"hardware": {"cpu": "a CPU", "gpus": []}}
    assert record["tokens_per_second"]["median"] == 6
    row = unpadded(generation_table([record, {"case": "dense"}])).splitlines()[2]
    assert "| 3 x 4 + 2 | float32 |" in row
    assert row.endswith(
        "| 6.000 (6.000 to 6.000) | 6.000 (6.000 to 6.000) | 1.000 (1.000 to 1.000) |"
    )
