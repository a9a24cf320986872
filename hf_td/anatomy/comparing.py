"""Compares what two models compute."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def compare_outputs(
    name: str, expected: Tensor, got: Tensor, tolerance: Mapping[torch.dtype, float]
) -> None:
    """Raise ValueError unless two outputs are equal up to rounding.

    Integers have to be equal. Infinities have to be in the same places: some models give them as
    the scores of padding. NaN equals nothing, NaN included.

    Args:
        name: of the output, for the message.
        expected: of the first model.
        got: of the second model, on the same device.
        tolerance: dtype to the largest difference, as a share of the largest finite expected value
            (of 1 where all values are smaller).
    """
    for what in ("dtype", "shape"):
        if getattr(got, what) != getattr(expected, what):
            raise ValueError(
                f"{name} has the {what} {_printed(getattr(got, what))}, where "
                f"{_printed(getattr(expected, what))} was expected"
            )
    same = got == expected
    if same.all():
        return
    if expected.isnan().any():
        raise ValueError(
            f"{name} is nan in {int(expected.isnan().sum())} of {same.numel()} values before the "
            "change, so nothing can be compared"
        )
    if not expected.is_floating_point():
        raise ValueError(f"{name} differs in {int((~same).sum())} of {same.numel()} values")
    scale = expected.abs().where(expected.isfinite(), 0).max().clamp(min=1)
    difference = float((got - expected).abs().masked_fill(same, 0).max() / scale)
    allowed = tolerance[expected.dtype]
    if not difference <= allowed:
        raise ValueError(
            f"{name} differs by {difference:.1e} of its largest value, where {allowed:.0e} is "
            "allowed"
        )


def _printed(value: object) -> object:
    return tuple(value) if isinstance(value, torch.Size) else value
