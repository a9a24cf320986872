"""Remembers what a cut took out, in as little memory as it takes to put it back."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_td.compaction.surgery import Cuts, join, take, without
from hf_td.compaction.trial import Undo, replace
from hf_td.kernels.reductions import count_nonzero


class CutParameter:
    """A parameter before a cut.

    Where somebody else holds it, an optimiser for instance, it comes back as that very object.
    Else nobody could tell, and it is made again: of what stayed, and of what went, which is nothing
    but zeros in a model that was pruned.
    """

    def __init__(self, parameter: Tensor, cuts: Mapping[int, Tensor]) -> None:
        self._parameter = weakref.ref(parameter)
        self._requires_grad = parameter.requires_grad
        self._steps: list[tuple[int, Tensor, Tensor | None]] = []
        tensor = parameter.detach()
        for dim, gone in cuts.items():
            taken = take(tensor, dim, gone)
            self._steps.append((dim, gone, taken if count_nonzero(taken) else None))
            if len(self._steps) < len(cuts):
                tensor = without(tensor, dim, gone)

    def restored(self, smaller: Tensor) -> Tensor:
        """The parameter as it was, given what the cut left of it."""
        parameter = self._parameter()
        if parameter is not None:
            return parameter
        tensor = smaller.detach()
        for dim, gone, taken in reversed(self._steps):
            tensor = join(tensor, dim, gone, taken)
        return nn.Parameter(tensor, requires_grad=self._requires_grad)


@dataclass(frozen=True)
class CutRecord:
    """What one cut changed in a model: parameters by name, and counts by module name."""

    parameters: Mapping[str, CutParameter]
    counts: Mapping[str, Mapping[str, int]]

    @classmethod
    def of(cls, cuts: Cuts, undo: Undo) -> CutRecord:
        """A record of a cut that was made."""
        before, counts = undo
        by_name: dict[str, dict[int, Tensor]] = {name: {} for name in before}
        for (name, dim), gone in cuts.items():
            by_name[name][dim] = gone
        return cls({n: CutParameter(before[n], by_name[n]) for n in before}, counts)

    @torch.no_grad()
    def undo(self, model: Any) -> None:
        """Make the model what it was before the cut."""
        now = dict(model.named_parameters(remove_duplicate=False))
        before = {name: cut.restored(now[name]) for name, cut in self.parameters.items()}
        replace(model, before, self.counts)
