"""Targeted stacks, whose layers are passed by where an update drops them.

A layer computes as always, and the update decides by `torch.where` whether its output or its input
goes on. So a compiled model is not compiled anew, nothing waits for the device, and a dropped layer
is measured as any other: what it would have changed is known, and it can come back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hf_td.modules.classes import class_of
from hf_td.modules.passing import (
    PassedMixin,
    hidden_in,
    hidden_out,
    is_passed,
    mark_passed,
    with_hidden,
)
from hf_td.patching.distributed import process_number
from hf_td.patching.targeted import TargetedMixin
from hf_td.ranking.activations import sampled_changes


class TargetedStack(TargetedMixin, nn.ModuleList):
    """A stack of layers under targeted dropout; its cut-offs are `(layers,)`."""

    def dropped(self) -> Tensor:
        """Return True for the layers that this update drops, `(layers,)`; none if it is dense."""
        return (self.cutoff > 0) & (self.draw[2] > 0)

    def measure(self, *inputs: Any) -> None:
        """Add how much a layer changed hidden states: (before, after, place of the layer)."""
        before, after, place = inputs
        process = process_number()
        self.add_squares(*sampled_changes(before, after, place, len(self), process))


class TargetedLayerMixin(PassedMixin):
    """A layer of a targeted stack.

    Attributes:
        stack: the stack, in a tuple: it is no child of its layer.
        place: index of the layer in the stack.
    """

    passed: bool = False
    training: bool
    stack: tuple[TargetedStack]
    place: int

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the stock output; where the layer is dropped, with its input as hidden states."""
        output = super().forward(*args, **kwargs)
        if not self.training or self.passed:
            return output
        (stack,) = self.stack
        before, after = hidden_in(args, kwargs), hidden_out(output)
        stack.measure_if_due(before, after, self.place)
        dropped = stack.dropped()[self.place]
        return with_hidden(output, torch.where(dropped, before.to(after.dtype), after))


def target_layers(stack: Any) -> None:
    """Change the layers of a stack to their targeted classes, in place.

    The classes keep the names of the stock classes: wrappers of layers look them up by name.
    """
    for place, layer in enumerate(stack):
        passed = is_passed(layer)
        mark_passed(layer, False)
        layer.__class__ = class_of(TargetedLayerMixin, type(layer), "")
        layer.__dict__.update(stack=(stack,), place=place, passed=passed)


def restore_layers(stack: Any) -> None:
    """Restore the stock classes of the layers of a stack; pruned layers stay passed by."""
    for layer in stack:
        passed = is_passed(layer)
        for name in ("stack", "place", "passed"):
            del layer.__dict__[name]
        layer.__class__ = type(layer).__bases__[-1]
        mark_passed(layer, passed)
