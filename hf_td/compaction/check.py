"""Proves that a compact model computes what the masked model computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_td.anatomy import (
    Stack,
    eager_experts,
    evaluating,
    find_layer,
    in_own_type,
    seeded,
    tensors_in,
)
from hf_td.anatomy.comparing import compare_outputs

# Largest relative difference that rounding explains, by the type of the computation.
TOLERANCE = {
    torch.float64: 1e-6,  # some forwards compute a softmax or an angle in float32 in any case
    torch.float32: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}
# Up to this many parameters the comparison is made in float64.
MOST_DOUBLES = 500_000_000


@dataclass(frozen=True)
class Footprint:
    """The outputs of each consumer of a model, in order, and of the model itself.

    Attributes:
        values: by the name of a consumer or output.
        wide: true if the forward ran in float64.
    """

    values: dict[str, Tensor]
    wide: bool = True


def footprint(
    model: nn.Module, inputs: Mapping[str, Any], consumers: list[str], wide: bool | None = None
) -> Footprint:
    """Run one forward in eval mode and keep the output of each consumer.

    Args:
        model: the model to run.
        inputs: keyword arguments of the forward.
        consumers: dotted names of linear layers.
        wide: true computes in float64, false in the model's own type. None tries float64 first:
            grouped products of experts cannot use it, and some masks overflow in it.

    Raises:
        ValueError: the forward fails. The message names the first consumer without an output.
    """
    if wide is None:
        with suppress(ValueError):
            found = footprint(model, inputs, consumers, wide=True)
            if not any(bool(value.isnan().any()) for value in found.values.values()):
                return found
        wide = False
    values: dict[str, Tensor] = {}
    hooks = [
        _caller(model, name).register_forward_hook(_keeper(values, name)) for name in consumers
    ]
    try:
        with (
            torch.no_grad(),
            evaluating(model),
            in_own_type(model),
            eager_experts(model),
            _widened(model, wide),
            seeded(model),
        ):
            outputs = model(**_cast(inputs, model))
    except Exception as error:
        place = next((name for name in consumers if name not in values), "the head")
        raise ValueError(f"the forward fails, first at {place}: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()
    floating = (t for t in tensors_in(outputs) if t.is_floating_point())
    values.update({f"output {i}": tensor for i, tensor in enumerate(floating)})
    return Footprint(values, wide)


def compare(masked: Footprint, compact: Footprint) -> None:
    """Raise unless both models computed the same values up to rounding.

    Raises:
        ValueError: a layer differs. The message names the first one.
    """
    for name, expected in masked.values.items():
        try:
            compare_outputs(name, expected, compact.values[name], TOLERANCE)
        except ValueError as error:
            raise ValueError(f"the compact model differs from the masked one: {error}") from None


def _caller(model: nn.Module, name: str) -> nn.Module:
    """Return the module that outputs what the consumer computes: experts share one module."""
    layer = find_layer(model, name)
    return layer.module if isinstance(layer, Stack) else layer


def _keeper(values: dict[str, Tensor], name: str) -> Any:
    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        values.setdefault(name, output)

    return keep


@contextmanager
def _widened(model: nn.Module, wide: bool) -> Iterator[None]:
    """Convert a model that is small enough to float64; restore the tensors bit for bit on exit."""
    narrow = {t: t.data for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()}
    try:
        if wide and sum(t.numel() for t in narrow) <= MOST_DOUBLES:
            for tensor in narrow:
                tensor.data = tensor.data.double()
        yield
    finally:
        for tensor, data in narrow.items():
            tensor.data = data


def _cast(inputs: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    return {
        name: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }
