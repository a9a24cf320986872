"""Holds still what the sparse network is made of, in updates that drop nothing.

Such updates keep the whole network good. If they moved what the other updates keep, they would
spoil what the sparse network has learned; so only what the others drop learns in them, against the
rest as it is. Not in the paper; it is the dense phase of dense-sparse-dense training (Han et al.,
arXiv 1607.04381), spread over the run, with the sparse network at rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from weakref import ref

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hf_td.patching.steps import steps_taken
from hf_td.ranking.sites import Slice


def hold(model: nn.Module, learning: Iterable[Slice]) -> list[RemovableHandle]:
    """Let the gradients of all but some parts of parameters be zero, for one update.

    It is over when an optimiser has changed a parameter, whoever removes the handles or not. Weight
    decay and momentum still move the rest. Gradients are changed before they are accumulated, and
    so before processes exchange them.

    Args:
        model: whose parameters are held; all learn where none of the parts can.
        learning: the parts that learn.
    """
    parts: dict[Tensor, Tensor] = {}
    for parameter, part in learning:
        if parameter.requires_grad:
            known = parts.get(parameter)
            parts[parameter] = part if known is None else known | part
    # Norms, biases, embeddings and the head go on learning: measured beside freezing them too.
    return [p.register_hook(_Held(p, ~part)) for p, part in parts.items()]


class _Held:
    """Takes from the gradient of a parameter what is held: a part of it, or all where it is None.

    It must not keep the parameter, which keeps it.
    """

    def __init__(self, parameter: Tensor, part: Tensor | None) -> None:
        self._parameter, self._part = ref(parameter), part
        self._before = parameter._version, steps_taken()

    def __call__(self, gradient: Tensor) -> Tensor | None:
        parameter = self._parameter()
        if parameter is None or (parameter._version, steps_taken()) != self._before:
            return None
        if self._part is None:
            return torch.zeros_like(gradient)
        return gradient.masked_fill(self._part, 0)
