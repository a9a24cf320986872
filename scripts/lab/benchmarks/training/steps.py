"""Times whole optimiser steps of two models in turn: what slows the machine slows both."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from hf_td.analysis.timing import Quartiles
from hf_td.patching.patch import find_patch
from lab.benchmarks.training.cases import VARIANTS, Applied, Case, Variant

# The variant that all others are compared with.
DENSE = "dense"
Variants = Mapping[str, Variant]


class Stepper:
    """Makes whole optimiser steps of one case: masks, forward, backward, AdamW.

    Args:
        case: what is trained.
        device: where.
        variants: how each variant drops.
    """

    def __init__(self, case: Case, device: str, variants: Variants) -> None:
        torch.manual_seed(0)
        with torch.device(device):  # a billion weights are drawn there in no time
            model: Any = case.shape.build()
        apply = variants.get(case.variant)
        self.applied = Applied(lambda update: None) if apply is None else apply(model)
        self.case, self.device, self.updates = case, device, 0
        self.patched_weights = _patched_weights(model)
        # Of the Trainer, which takes the fused one by default.
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        self.forward: Any = torch.compile(model) if case.mode == "compile" else model
        self.inputs = _inputs(model, case, device)

    def step(self) -> float:
        """Make a step; returns its seconds."""
        wait_for(self.device)
        started = time.perf_counter()
        self.applied.advance(self.updates)
        for _ in range(self.case.micro_batches):
            with self._precision():
                loss = self.forward(**self.inputs).loss
            penalty = self.applied.penalty()
            (loss if penalty is None else loss + penalty).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        wait_for(self.device)
        self.updates += 1
        return time.perf_counter() - started

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


def wait_for(device: str) -> None:
    """Let a device finish what it was given, before the clock is read."""
    if device != "cpu":
        torch.accelerator.synchronize(device)


def measure(
    cases: Sequence[Case],
    *,
    device: str = "cpu",
    rounds: int = 9,
    warmup: int = 4,
    variants: Variants = VARIANTS,
) -> Iterator[dict[str, Any]]:
    """Time cases that differ in their variant in turn with the dense model.

    Args:
        cases: neighbours that differ in nothing but the variant are measured together.
        device: `cpu` or `cuda`.
        rounds: in each, the dense model and every variant make a step; at least 2.
        warmup: rounds before, which do not count; compilation is in these.
        variants: what the names of variants stand for.

    Yields:
        For each case a JSON object; a ratio is the variant's time over the dense model's of the
        same round, and that of the sums counts what only some updates do.
    """
    for _, some in groupby(cases, key=lambda case: replace(case, variant=DENSE)):
        yield from _measure_together(list(some), device, rounds, warmup, variants)


def _measure_together(
    cases: Sequence[Case], device: str, rounds: int, warmup: int, variants: Variants
) -> Iterator[dict[str, Any]]:
    torch.compiler.reset()  # or the models before count among those that a forward is compiled for
    dense = Stepper(replace(cases[0], variant=DENSE), device, variants)
    others = [Stepper(case, device, variants) for case in cases]
    times = [[one.step() for one in (dense, *others)] for _ in range(warmup + rounds)][warmup:]
    dense_times, *other_times = zip(*times, strict=True)
    for stepper, own in zip(others, other_times, strict=True):
        ratios = [mine / its for mine, its in zip(own, dense_times, strict=True)]
        yield {
            "case": "step",
            **stepper.case.facts(),
            "ratio": asdict(Quartiles.of(ratios)),
            "ratio_of_sums": sum(own) / sum(dense_times),
            "milliseconds": asdict(Quartiles.of([1000 * t for t in own])),
            "dense_milliseconds": asdict(Quartiles.of([1000 * t for t in dense_times])),
            "patched_weights": stepper.patched_weights,
            "rounds": rounds,
            "device": device,
        }
