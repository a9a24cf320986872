"""Runs a model on the batches of a caller, and says what is wrong with them."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

# What forwards raise where their inputs do not fit.
_MISFITS = (AttributeError, IndexError, RuntimeError, TypeError, ValueError)


def run_batch(model: nn.Module, batch: Any) -> Any:
    """Return the output of a model for a batch.

    Raises:
        TypeError: the batch is no mapping.
        ValueError: the model does not run on it.
    """
    check_batch(batch)
    try:
        return model(**batch)
    except torch.OutOfMemoryError:
        raise
    except _MISFITS as error:
        got = {name: _shape(value) for name, value in batch.items()}
        raise ValueError(
            f"{type(model).__name__} does not run on a batch: {error}. Batches are what "
            f"model(**batch) takes, with several rows in each tensor; got {got}. Pass what a "
            "DataLoader yields"
        ) from error


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__


def check_batch(batch: Any) -> None:
    """Raise TypeError for a batch that is no mapping."""
    if not isinstance(batch, Mapping):
        raise TypeError(
            "batches are what model(**batch) takes, mappings such as {'input_ids': ...}; got "
            f"{reprlib.repr(batch)}, a {type(batch).__name__}. Tokenize texts first, and put a "
            "single batch into a list"
        )
