"""The state of a targeted layer, whatever its kind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hf_td import kernels
from hf_td.functional import Cut, Rule
from hf_td.patching.distributed import process_number
from hf_td.ranking.activations import sampled_squares


class TargetedMixin:
    """The state of a targeted layer. A module changes to its class in place.

    Attributes:
        cutoff: see `functional.Cut`; a buffer that is not saved, like every tensor here.
        draw: see `functional.Cut`.
        scale: see `functional.Cut`; None if importance does not use activations.
        rule: the rule by which every update scores the weight.
        input_squares: sum of the squared inputs in a measured update, `(fan_in,)`; None if
            importance does not use activations.
        input_rows: number of rows in `input_squares`.
        measuring: True in measured updates.
    """

    weight: nn.Parameter
    cutoff: Tensor
    draw: Tensor
    scale: Tensor | None
    rule: Rule
    input_squares: Tensor | None
    input_rows: Tensor
    measuring: bool = False

    bias: nn.Parameter | None

    @property
    def cut(self) -> Cut:
        """The numbers of this update."""
        return Cut(self.cutoff, self.draw, self.scale)

    def masked_weight(self) -> Tensor:
        """Return the masked weight of this update."""
        return kernels.masked(self.weight, self.cut, self.rule)

    def masked_linear(self, input: Tensor) -> Tensor:
        """Return the output for an input with the masked weight of this update."""
        self.measure_if_due(input)
        return kernels.masked_linear(input, self.weight, self.bias, self.cut, self.rule)

    def measure(self, *inputs: Any) -> None:
        """Add the squares of the first input, `(..., fan_in)`, to those of this update."""
        self.add_squares(*sampled_squares(inputs[0], process_number()))

    def add_squares(self, squares: Tensor, rows: int) -> None:
        """Add a sum of squares, and the number of its rows, to those of this update."""
        if self.input_squares is not None:
            self.input_squares += squares
            self.input_rows += rows

    def measure_if_due(self, *inputs: Any) -> None:
        """Measure a training input in measured updates.

        A compiled forward measures in every update: a switch, or hooks that come and go, would
        recompile it. Sums from other updates are reset at the start of the next measured one.
        """
        due = torch.compiler.is_compiling() or self.measuring
        if due and self.input_squares is not None:
            with torch.no_grad():
                self.measure(*inputs)
