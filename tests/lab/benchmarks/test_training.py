"""The benchmark of training steps, on tiny models, and its page."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from lab.benchmarks import page
from lab.benchmarks.page import write_page
from lab.benchmarks.training.cases import MEMORY, SUITES, Case, Shape
from lab.benchmarks.training.ports import TARGETING, NaiveLinear, projections
from lab.benchmarks.training.steps import Stepper, measure
from lab.benchmarks.training.variants import PORTS, VARIANTS
from torch import nn

from hf_td import patch_model
from hf_td.analysis import timing
from hf_td.analysis.timing import Quartiles
from hf_td.files import append_json_line, read_json_lines
from hf_td.patching.patch import anneal, find_patch
from tests.tables import unpadded
from tests.tiny import tiny_inputs, tiny_model

TINY = Shape("MiniLM", hidden=32, layers=1, heads=2)


class Clock:
    """A clock on which every step takes as many seconds as the name of its variant has letters."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[str] = []
        monkeypatch.setattr(
            Stepper, "step", lambda stepper: self.steps.append(stepper.case.variant)
        )
        monkeypatch.setattr(timing.time, "perf_counter", lambda: float(len("".join(self.steps))))


def test_steps_alternate_and_ratios_are_to_the_dense_step_beside_them(monkeypatch):
    clock = Clock(monkeypatch)
    cases = [Case(v, TINY, 2, 4) for v in ("weight", "unit")]
    found = list(measure(cases, rounds=3, warmup=1))
    assert clock.steps == ["dense", "weight", "unit"] * 4
    assert [r["ratio"]["median"] for r in found] == [6 / 5, 4 / 5]
    assert [r["milliseconds"]["median"] for r in found] == [6000, 4000]
    assert {r["dense_milliseconds"]["median"] for r in found} == {5000}
    weights = 4 * 32 * 32 + 2 * 32 * 128
    assert [r["patched_weights"] for r in found] == [weights, 32 * 32 + 32 * 128]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_step_trains_with_every_variant(variant, precision):
    stepper = Stepper(Case(variant, TINY, 2, 4, micro_batches=2, precision=precision))
    (group,) = stepper.optimizer.param_groups
    before = [p.detach().clone() for p in group["params"]]
    stepper.step()
    stepper.step()
    assert stepper.updates == 2
    assert any(not torch.equal(p, q) for p, q in zip(group["params"], before, strict=True))


def test_a_llama_is_measured_too():
    shape = Shape("Llama", hidden=32, layers=1, heads=4)
    stepper = Stepper(Case("weight", shape, 2, 4))
    stepper.step()
    assert stepper.patched_weights > 0


def test_cases_that_are_compared_follow_each_other():
    for make in SUITES.values():
        cases = make()
        assert len(set(cases)) == len(cases)
        groups = [key for key, _ in itertools.groupby(c.facts() | {"variant": ""} for c in cases)]
        assert all(group not in groups[:i] for i, group in enumerate(groups))


def test_the_spread_is_that_of_the_quartiles():
    assert Quartiles.of([1, 2, 3, 4, 5]) == Quartiles(median=3, low=2, high=4)


# --- the slow ports ---


@pytest.mark.parametrize("port", PORTS.values(), ids=PORTS)
def test_ports_compute_what_a_patched_model_computes(port):
    model, ours = (without_dropout(tiny_model("bert")).train() for _ in range(2))
    constant: dict[str, Any] = {"targeting_schedule": "constant", "drop_rate_schedule": "constant"}
    patch_model(ours, importance="magnitude", targeting=TARGETING, drop_rate=1.0, **constant)
    patch: Any = find_patch(ours)
    assert len(projections(model)) == len(patch.sites)
    port(model).advance(0)
    anneal(ours, 0.8, 0)
    inputs = tiny_inputs(ours)
    torch.testing.assert_close(model(**inputs).logits, ours(**inputs).logits)


def without_dropout(model: Any) -> Any:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def test_the_naive_port_drops_the_lowest_of_each_unit():
    layer = nn.Linear(100, 3)
    layer.__class__ = NaiveLinear
    rows = layer.weight.detach()
    kept = rows.abs() >= rows.abs().sort(dim=1).values[:, int(TARGETING * 100), None]
    expected = nn.functional.linear(torch.ones(1, 100), rows * kept, layer.bias)
    torch.testing.assert_close(layer.train()(torch.ones(1, 100)), expected)
    torch.testing.assert_close(layer.eval()(torch.ones(1, 100)), rows.sum(1)[None] + layer.bias)


# --- the page ---


def test_the_page_has_what_was_measured_and_what_missed_its_aim(tmp_path):
    facts = {
        "threads": 2,
        "command": ["--suite", "cpu"],
        "hardware": {"cpu": "a CPU", "gpus": []},
        "versions": {"torch": "2"},
        "commit": "abc",
    }
    lines = tmp_path / "training_speed.jsonl"
    for variant, ratio in (("weight", 1.5), ("weight", 1.01), ("unit", 1.2), ("naive port", 1.9)):
        case = Case(variant, Shape("MiniLM", 384, 6, 12), 32, 128)
        times = {"median": ratio, "low": ratio - 0.01, "high": ratio + 0.01}
        record = {"case": "step", **case.facts(), "device": "cpu", "ratio": times, **facts}
        append_json_line(lines, {**record, "dense_milliseconds": times})
    patch = {
        "seconds": 0.25,
        "spread": {"low": 0.2, "high": 0.3},
        "aim": "under 50 ms",
        "met": False,
    }
    pruning = [{"case": "later_patch", **patch, **facts, "command": "python scripts/bench.py"}]
    page = write_page(tmp_path, read_json_lines(lines), pruning)
    text = unpadded(page.read_text())
    assert "| weight | 1.0 | 1.010 (1.000 to 1.020) |" in text  # the last of two
    assert "1.500" not in text
    assert "- MiniLM (6 layers, 384), 32 x 128, unit, eager: 1.200, where at most 1.04" in text
    assert "naive port, eager: 1.9" not in text  # no aim is for it
    assert "| 0.25 (0.2 to 0.3) | | | | under 50 ms | **no** |" in text
    assert "- `python scripts/bench.py`: a CPU" in text
    assert text.count("`python scripts/bench_training.py --suite cpu`: a CPU, torch 2") == 1
    assert (tmp_path / "training-tokens.svg").is_file()
    assert "## Parts" not in text


def test_machines_are_not_mixed_in_a_plot(tmp_path, monkeypatch):
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(
        page, "plot_lines", lambda lines, stem, x, y: drawn.update({stem.name: (lines, x)})
    )
    times = {"median": 1.5, "low": 1.5, "high": 1.5}
    facts = {"case": "step", "device": "cpu", "threads": 2, "ratio": times, "commit": "abc"}
    facts |= {"dense_milliseconds": times, "versions": {"torch": "2"}, "command": []}
    measured = [(32, 1.1, "slow"), (32, 1.02, "quick"), (16, 1.2, "slow")]
    lines = [
        {
            **facts,
            **Case("weight", Shape("MiniLM", 384, 6, 12), batch, 128).facts(),
            "ratio": times | {"median": ratio},
            "hardware": {"cpu": cpu, "gpus": []},
        }
        for batch, ratio, cpu in measured
    ]
    text = unpadded(write_page(tmp_path, lines, []).read_text())
    curves, x = drawn["training-tokens"]
    assert curves["weight"] == pytest.approx({4096: 10, 2048: 20})
    assert x == "tokens per step (2 cores, slow)"
    assert "1.100, where at most 1.04 was the aim (2 cores, slow)." in text
    assert "2 cores, quick | weight | 1.5 | 1.020" in text


def test_what_has_no_line_on_a_gpu_is_called_not_measured(tmp_path):
    text = unpadded(write_page(tmp_path, [], []).read_text())
    assert text.startswith("# How fast it is")
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    cases = [case for name in SUITES if name.startswith("cuda") for case in SUITES[name]()]
    assert len(rows) == len(cases) + len(MEMORY["cuda"]()) + 2
    assert all(row.endswith("| not measured |") for row in rows)
    assert "| BERT-base, 32 x 128, bf16, compile | unit | 1.02 | not measured |" in rows
    assert "| Llama, 1 B, 8 x 1024, bf16, eager | weight | 1.01 | not measured |" in rows


def test_what_has_a_line_on_a_gpu_is_shown(tmp_path):
    case = SUITES["cuda"]()[0]
    times = {"median": 1.015, "low": 1.01, "high": 1.02}
    facts = {
        "case": "step",
        "threads": 1,
        "command": [],
        "commit": "abc",
        "versions": {"torch": "2"},
    }
    facts |= {"hardware": {"cpu": "a CPU", "gpus": ["a GPU"]}, "dense_milliseconds": times}
    line = {**case.facts(), **facts, "device": "cuda", "ratio": times}
    latency = {"device": "cuda", "case": "dense"}
    text = unpadded(write_page(tmp_path, [line], [], [latency]).read_text())
    assert "| BERT-base, 32 x 128, bf16, eager | weight | 1.02 | 1.015 (1.010 to 1.020) |" in text
    assert "| latency, compact and dense, batches 1, 8, 64 | | | see inference.md |" in text
    assert "| generation, batches 1, 8, 64 | | | not measured |" in text
    assert "Steps were measured once" not in text
