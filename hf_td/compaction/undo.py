"""Records a cut in little memory, so that it can be undone."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_td.compaction.surgery import Cuts, join, take, without
from hf_td.compaction.trial import Undo, swap
from hf_td.kernels.reductions import count_nonzero


class CutParameter:
    """A parameter before a cut.

    If something else references the parameter, such as an optimiser, `restored` returns that very
    object. Otherwise it builds an equal one from what stayed and what was taken out. In a pruned
    model the latter is all zeros, and takes no memory.
    """

    def __init__(self, parameter: Tensor, cuts: Mapping[int, Tensor]) -> None:
        self._parameter = weakref.ref(parameter)
        self._requires_grad = parameter.requires_grad
        self._steps: list[tuple[int, Tensor, Tensor | None]] = []
        tensor = parameter.detach()
        for dim, removed in cuts.items():
            taken = take(tensor, dim, removed)
            self._steps.append((dim, removed, taken if count_nonzero(taken) else None))
            if len(self._steps) < len(cuts):
                tensor = without(tensor, dim, removed)

    def restored(self, smaller: Tensor) -> Tensor:
        """Return the parameter as it was, given what the cut left of it."""
        parameter = self._parameter()
        if parameter is not None:
            return parameter
        tensor = smaller.detach()
        for dim, removed, taken in reversed(self._steps):
            tensor = join(tensor, dim, removed, taken)
        return nn.Parameter(tensor, requires_grad=self._requires_grad)


@dataclass(frozen=True)
class CutRecord:
    """The changes of one cut: parameters by name, and counts by module name."""

    parameters: Mapping[str, CutParameter]
    counts: Mapping[str, Mapping[str, int]]

    @classmethod
    def of(cls, cuts: Cuts, undo: Undo) -> CutRecord:
        """Return the record of a cut that was made."""
        before, counts = undo
        by_name: dict[str, dict[int, Tensor]] = {name: {} for name in before}
        for (name, dim), removed in cuts.items():
            by_name[name][dim] = removed
        return cls({n: CutParameter(before[n], by_name[n]) for n in before}, counts)

    @torch.no_grad()
    def undo(self, model: Any) -> None:
        """Restore the model as it was before the cut."""
        smaller = dict(model.named_parameters(remove_duplicate=False))
        before = {name: cut.restored(smaller[name]) for name, cut in self.parameters.items()}
        swap(model, before, self.counts)
