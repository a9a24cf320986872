"""Time whole optimiser steps of variants in turn with those of the dense model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from hf_td.analysis.timing import Quartiles, time_in_turn
from hf_td.patching.patch import find_patch
from lab.benchmarks.ratios import ratios
from lab.benchmarks.training.cases import Case
from lab.benchmarks.training.sharding import shard_on_one_rank
from lab.benchmarks.training.variants import DENSE, VARIANTS


class Stepper:
    """A model in training, with its optimiser and a batch.

    Args:
        case: the model, the variant and the size of a step.
        device: `cpu` or `cuda`.

    Attributes:
        updates: number of steps that were made.
        patched_weights: number of weights in the targeted layers.
    """

    def __init__(self, case: Case, device: str = "cpu") -> None:
        torch.manual_seed(0)
        with torch.device(device):  # to draw a billion weights is quick on a GPU
            model: Any = case.shape.build()
        self.case, self.device, self.updates = case, device, 0
        self.applied = VARIANTS[case.variant](model)
        self.patched_weights = _patched_weights(model)
        if case.mode == "fsdp2":
            shard_on_one_rank(model, device)
        # Fused, as the Trainer has it by default.
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        self.forward: Any = torch.compile(model) if case.mode == "compile" else model
        self.inputs = _inputs(model, case, device)

    def step(self) -> None:
        """Make a whole step: masks, forward and backward of all micro-batches, AdamW."""
        self.applied.advance(self.updates)
        for _ in range(self.case.micro_batches):
            with self._precision():
                loss = self.forward(**self.inputs).loss
            penalty = self.applied.penalty()
            (loss if penalty is None else loss + penalty).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.updates += 1

    def _precision(self) -> AbstractContextManager[Any]:
        if self.case.precision == "bf16":
            return torch.autocast(self.device, torch.bfloat16)
        return nullcontext()


def _patched_weights(model: nn.Module) -> int:
    patch = find_patch(model)
    return sum(site.layer.weight.numel() for site in patch.sites) if patch else 0


def _inputs(model: Any, case: Case, device: str) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(0)
    ids = torch.randint(1, model.config.vocab_size, (case.batch, case.length), generator=draws)
    classifies = "Classification" in type(model).__name__
    labels = torch.randint(0, 2, (case.batch,), generator=draws) if classifies else ids
    return {"input_ids": ids.to(device), "labels": labels.to(device)}


def measure(
    cases: Sequence[Case], *, device: str = "cpu", rounds: int = 9, warmup: int = 4
) -> Iterator[dict[str, Any]]:
    """Time the steps of cases, in turn with those of the dense model.

    Args:
        cases: neighbours that differ only in their variant are measured together.
        device: `cpu` or `cuda`.
        rounds: in each, the dense model and every variant make a step; at least 2.
        warmup: rounds before these, in which compilation happens.

    Yields:
        A JSON object for each case. `ratio` is the time of the variant over that of the dense
        model in the same round. `ratio_of_sums` is that of all rounds, so it includes what only
        some updates do.
    """
    for _, some in groupby(cases, key=lambda case: replace(case, variant=DENSE)):
        yield from _measure_together(list(some), device, rounds, warmup)


def _measure_together(
    cases: Sequence[Case], device: str, rounds: int, warmup: int
) -> Iterator[dict[str, Any]]:
    torch.compiler.reset()  # earlier models count towards the limit of recompilations
    steppers = [Stepper(case, device) for case in (replace(cases[0], variant=DENSE), *cases)]
    steps = [stepper.step for stepper in steppers]
    dense, *others = time_in_turn(steps, rounds=rounds, warmup=warmup, device=device)
    for stepper, own in zip(steppers[1:], others, strict=True):
        yield {
            "case": "step",
            **stepper.case.facts(),
            "ratio": asdict(ratios(own, dense)),
            "ratio_of_sums": sum(own) / sum(dense),
            "milliseconds": asdict(Quartiles.of([1000 * t for t in own])),
            "dense_milliseconds": asdict(Quartiles.of([1000 * t for t in dense])),
            "patched_weights": stepper.patched_weights,
            "rounds": rounds,
            "device": device,
        }
