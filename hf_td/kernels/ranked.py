"""A weight that is ranked, with what that needs."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from hf_td.functional import Rule


class Ranked(NamedTuple):
    """A weight whose entries are ranked inside each output unit.

    Attributes:
        weight: as its layer stores it, floating point.
        rule: what its scores are.
        scale: what magnitudes are multiplied with, `(fan_in,)`, float32, not negative; None for
            ones.
        before: its cut-offs in the update before, near which they are looked for first.
    """

    weight: Tensor
    rule: Rule
    scale: Tensor | None = None
    before: Tensor | None = None
