"""The latency in a card is measured in turn, in eval mode and in the type of the weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hf_td.hub import measure_latency


def test_latency_is_measured_in_turn_and_in_eval_mode():
    calls: list[str] = []

    class Spy(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            assert not self.training
            assert not torch.is_grad_enabled()
            calls.append("dense" if self.out_features == 64 else "compact")
            return super().forward(input)

    dense, compact = Spy(32, 64), Spy(32, 8)
    found = measure_latency(dense, compact, {"input": torch.rand(5, 32)}, runs=4, warmup=1)
    assert calls == ["dense", "compact"] * 5
    assert dense.training
    for timing in (found.dense, found.compact):
        assert 0 < timing.low <= timing.median <= timing.high
    assert found.speedup == found.dense.median / found.compact.median
    assert (found.shape, found.runs, found.dtype) == ((5, 32), 4, "float32")
    assert found.threads == torch.get_num_threads()
    assert found.hardware


def test_a_model_that_a_trainer_wrapped_is_timed_in_the_type_of_its_weights(mixed_precision):
    lowered = []

    class Spy(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            lowered.append(torch.is_autocast_enabled("cpu"))
            return super().forward(input)

    dense, compact, inputs = Spy(8, 8), Spy(8, 2), {"input": torch.rand(1, 8)}
    mixed_precision(dense)(**inputs)
    assert lowered == [True]
    measure_latency(dense, compact, inputs, runs=2, warmup=0)
    assert lowered == [True, *[False] * 4]


def test_a_measurement_that_makes_no_sense_is_refused():
    model = nn.Linear(4, 4)
    with pytest.raises(ValueError, match="at least 2 rounds, got 1"):
        measure_latency(model, model, {"input": torch.rand(1, 4)}, runs=1)
    with pytest.raises(ValueError, match="no tensor"):
        measure_latency(model, model, {"text": "hello"})
    with pytest.raises(ValueError, match=r"one device.*cpu.*meta"):
        measure_latency(model, nn.Linear(4, 4, device="meta"), {"input": torch.rand(1, 4)})
