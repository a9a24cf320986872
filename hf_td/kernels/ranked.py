"""The input of `hf_td.kernels.cutoffs`."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from hf_td.functional import Rule


class Ranked(NamedTuple):
    """A weight whose entries are ranked inside each output unit.

    Attributes:
        weight: in the layout of its layer, floating point.
        rule: the rule by which it is scored.
        scale: factor on the magnitudes of each input, `(fan_in,)`, float32, at least 0; None for
            ones.
        before: the cut-offs of the previous update, a first guess for the new ones; or None.
    """

    weight: Tensor
    rule: Rule
    scale: Tensor | None = None
    before: Tensor | None = None
