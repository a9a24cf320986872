"""Reads the example inputs that a user gives as a file: JSON, or tensors in safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hf_td.files import read_json_object
from hf_td.tasks.errors import UsageError


def read_example_inputs(file: str | Path | None, model: Any) -> dict[str, Any] | None:
    """Return the keyword arguments of a forward that a file holds, on the device of the model.

    Lists of JSON become tensors; floating-point ones get the model's dtype.

    Args:
        file: a .json or .safetensors file; None for None.
        model: a `PreTrainedModel`.

    Raises:
        UsageError: the file is missing, or does not hold inputs.
    """
    if file is None:
        return None
    try:
        path = Path(file)
        found = load_file(path) if path.suffix == ".safetensors" else _read_json(path, model.dtype)
    except (OSError, ValueError, TypeError, RuntimeError, OverflowError, SafetensorError) as error:
        raise UsageError(
            f"{file} holds no example inputs: {error}. Expected is a .json file, such as "
            '{"input_ids": [[101, 2054, 102]]}, or a .safetensors file.'
        ) from error
    return {n: v.to(model.device) if isinstance(v, Tensor) else v for n, v in found.items()}


def _read_json(path: Path, dtype: torch.dtype) -> dict[str, Any]:
    values = read_json_object(path)
    return {n: _tensor(v, dtype) if isinstance(v, list) else v for n, v in values.items()}


def _tensor(values: list[Any], dtype: torch.dtype) -> Tensor:
    tensor = torch.tensor(values)
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
