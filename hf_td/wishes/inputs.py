"""Makes inputs of a wanted batch and length, to time a model on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hf_td.anatomy import probe_inputs
from hf_td.anatomy.inputs import PROBE_LENGTH, trace_given

# Inputs whose second dimension runs over the tokens of a text.
_TEXTS = ("input_ids", "decoder_input_ids", "attention_mask", "token_type_ids", "bbox")


def sized_inputs(model: nn.Module, batch: int = 1, length: int = 128) -> dict[str, Any]:
    """Return keyword arguments of a forward, of a batch of texts of a length or of images.

    Args:
        model: a model whose inputs can be made; it is not changed.
        batch: number of rows.
        length: number of tokens of each text; without effect on a model that reads none.

    Raises:
        ValueError: a number is not positive, or the model does not run on such inputs.
    """
    for name, number in (("batch", batch), ("length", length)):
        if number < 1:
            raise ValueError(f"{name} is a positive number, got {number}")
    made = {name: _sized(name, v, batch, length) for name, v in probe_inputs(model).items()}
    try:
        trace_given(model, made)
    except ValueError as error:
        raise ValueError(
            f"{type(model).__name__} does not run on a batch of {batch} with length {length}: "
            f"{error.__cause__}. Choose another batch or length (--batch, --length), or pass "
            "example_inputs of the size to time"
        ) from error
    return made


def _sized(name: str, value: Any, batch: int, length: int) -> Any:
    """Repeat the tokens of a probe up to a length, and its row up to a batch."""
    if not isinstance(value, Tensor) or not value.dim():
        return value
    if name in _TEXTS and value.dim() > 1 and value.shape[1] == PROBE_LENGTH:
        value = value[:, torch.arange(length, device=value.device) % PROBE_LENGTH]
    return value.repeat(batch, *[1] * (value.dim() - 1)) if len(value) == 1 else value


def shape_of(inputs: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of the first tensor of some inputs."""
    return next(tuple(value.shape) for value in inputs.values() if isinstance(value, Tensor))


@contextmanager
def threads_of_torch(threads: int | None) -> Iterator[None]:
    """Use this many threads in the block; None leaves their number.

    Raises:
        ValueError: the number is not positive.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads is a positive number, got {threads}")
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
